"""Making a registration where an earlier process under the same id may have left its own."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

from . import wire
from .errors import ConflictError, InvalidValueError, StoreUnavailableError
from .model import Status
from .registration import Registration
from .store import EntryExistsError, Write
from .updates import already_registered, compare_and_set, status_of, with_status

__all__ = ["make"]

# A value is taken over at this many tries, while other clients change its status.
_TRIES = 8


async def make(registration: Registration, write: Write) -> int:
    """Write the value of `registration`, or take over an earlier process's; return its revision.

    A status that an operator has set stays. `registration` has the value that lies there then.
    Raises AlreadyRegisteredError, and what `Bucket.create` raises.
    """
    for _ in range(_TRIES):
        try:
            revision = await registration._bucket.create(write)
        except EntryExistsError as error:
            write = _over(registration, write, error)
            continue
        if write.value != registration._value:
            revision = await _accept(registration, write, revision)
        return revision
    raise StoreUnavailableError(
        f"could not register {registration.id} in bucket {registration._bucket.name}: others change it all "
        "the time; try again"
    )


def _over(registration: Registration, write: Write, error: EntryExistsError) -> Write:
    """Return what to write where another value lies.

    Raises AlreadyRegisteredError when it differs by more than its status, and was not left for a restart.
    """
    found = error.entry
    try:
        there = registration._decode(found)
    except InvalidValueError:
        raise already_registered(registration.instance, error) from error
    wanted = with_status(registration.instance, status_of(there))
    if wanted == there:
        return dataclasses.replace(write, value=found.value)
    if not error.released:
        raise already_registered(registration.instance, error) from error
    return dataclasses.replace(
        write,
        value=wire.dumps(wanted),
        valid=lambda entry: entry.revision != found.revision and registration._is_mine(entry),
    )


async def _accept(registration: Registration, write: Write, revision: int) -> int:
    """Go on with the value that was taken over; return its revision.

    A status that a health check left does not count: it was another process's.
    """
    value, instance = write.value, wire.loads(write.value)
    if status_of(instance) is Status.UNHEALTHY:
        with suppress(ConflictError):
            value, instance, revision = await compare_and_set(
                registration._bucket,
                write,
                revision,
                instance,
                lambda current: with_status(current, Status.SERVING),
            )
    registration._value, registration._instance = value, instance
    return revision
