"""Changes of what is registered: the one compare-and-set, for instances of this process and of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from . import entry, keys, wire
from .errors import AlreadyRegisteredError, ConflictError, InvalidValueError
from .model import EndpointInstance, Instance, Status, kind_of
from .store import Bucket, Entry, EntryExistsError, Write

__all__ = [
    "Change",
    "already_registered",
    "change_foreign",
    "compare_and_set",
    "status_of",
    "with_status",
]

# Returns the instance as it shall be.
Change: TypeAlias = Callable[[Instance], Instance]

# A change that does not depend on the other fields is tried this often when other clients change those.
_TRIES = 8


async def compare_and_set(
    bucket: Bucket, current: Write, revision: int, instance: Instance, change: Change
) -> tuple[bytes, Instance, int]:
    """Write what `change` makes of `instance` over `current`, if that still lies there at `revision`.

    Return the value, the instance and the revision that lie there then. Raises ConflictError, and what
    `Bucket.replace` and `change` raise.
    """
    value = wire.dumps(change(instance))
    changed = wire.loads(value)
    revision = await bucket.replace(dataclasses.replace(current, value=value), revision=revision)
    return value, changed, revision


async def change_foreign(bucket: Bucket, instance: Instance, change: Change, *, exactly: bool) -> Instance:
    """Apply `change` to another process's instance; return what is registered then.

    With `exactly`, the instance that is registered must be equal to `instance`. Without, `change` is applied
    to what is registered under its id.
    Raises ConflictError, and what `Bucket.get`, `Bucket.replace` and `change` raise.
    """
    key, tries = keys.key_of(instance.id), 1 if exactly else _TRIES
    while True:
        found = await bucket.get(key)
        current = _decoded(instance, found)
        if found is None or current is None or (exactly and current != instance):
            raise ConflictError(
                f"cannot change {instance.id} in bucket {bucket.name}: "
                f"{'another value' if found else 'nothing'} is registered under it now; list it again, and "
                "change that"
            )
        if change(current) == current:
            return current
        tries -= 1
        write = Write(key, found.value, found.ttl, found.owner or "")
        try:
            return (await compare_and_set(bucket, write, found.revision, current, change))[1]
        except ConflictError:
            if tries == 0:
                raise


def already_registered(instance: Instance, error: EntryExistsError) -> AlreadyRegisteredError:
    """Return the error of a registration that found another value under its id."""
    return AlreadyRegisteredError(
        f"{instance.id} is already registered with another value; unregister it, update it, or use "
        "another instance id",
        _decoded(instance, error.entry),
    )


def _decoded(instance: Instance, found: Entry | None) -> Instance | None:
    if found is not None and found.trusted:
        with suppress(InvalidValueError):
            return entry.decode(kind_of(instance.id), found.key, found.value)
    return None


def status_of(instance: Instance) -> Status:
    """Return the status of an endpoint; a model card, which has none, is serving."""
    return instance.status if isinstance(instance, EndpointInstance) else Status.SERVING


def with_status(instance: Instance, status: Status) -> Instance:
    """Return an endpoint with another status; a model card as it is."""
    if not isinstance(instance, EndpointInstance) or instance.status is status:
        return instance
    return dataclasses.replace(instance, status=status)
