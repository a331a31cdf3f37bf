"""Past events of a registry, and its content at a moment: read from the history of its buckets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from . import entry, keys
from .errors import InvalidValueError, UnsupportedServerError
from .model import Added, Event, Instance, InstanceId, Query, Removed

__all__ = ["PROBE", "Change", "instances_at", "read_history", "since_time"]

# The namespaces in which `natsdisc doctor` leaves a mark begin with this. Nothing is ever registered there.
PROBE = "natsdisc-doctor"


@dataclass(frozen=True, slots=True)
class Change:
    """An event, and when the server copied what caused it into the history, which is a moment later (UTC).

    Entries that were there when the history was made have the time of that.
    """

    time: datetime
    event: Event

    @property
    def id(self) -> InstanceId:
        """The instance that came, changed or left."""
        return self.event.instance.id if isinstance(self.event, Added) else self.event.id


def since_time(since: datetime | float | None) -> datetime | None:
    """Return the moment that `since` means: an aware datetime, or a number of seconds before now.

    Raises InvalidValueError.
    """
    if since is None:
        return None
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise InvalidValueError(f"since must have a time zone: {since!r}; use datetime.now(UTC)")
        return since.astimezone(UTC)
    if isinstance(since, bool) or not isinstance(since, (int, float)) or not since >= 0:
        raise InvalidValueError(f"since must be a datetime or a number of seconds, 0 or more: {since!r}")
    try:
        return datetime.now(UTC) - timedelta(seconds=since)
    except OverflowError:
        return None  # before all times: everything


async def read_history(store: Any, query: Query, since: datetime | None) -> list[Change]:
    """Return the changes of `query` from `since` on, the oldest first.

    Raises UnsupportedServerError for a store without a history, and what `History.read` raises.
    """
    make = getattr(store, "history", None)
    if make is None:
        raise UnsupportedServerError(
            f"could not read the history of {query}: only registries on a NATS server keep one; "
            "use natsdisc.connect"
        )
    changes: list[Change] = []
    last: dict[InstanceId, Instance] = {}
    past: AsyncIterator[Any] = make(entry.BUCKETS[query.kind]).read(keys.prefix_of(query), since)
    async for one in past:
        id = keys.parse_key(query.kind, one.key)
        if id is None or id.namespace.startswith(f"{PROBE}-"):
            continue
        if one.reason is not None:
            changes.append(Change(one.time, Removed(id, one.reason, last.pop(id, None))))
            continue
        try:
            instance = entry.decode(query.kind, one.key, one.value)
        except InvalidValueError:
            continue
        if last.get(id) != instance:  # an owner that writes the same again changes nothing
            last[id] = instance
            changes.append(Change(one.time, Added(instance)))
    return changes


def instances_at(
    changes: Sequence[Change], now: Iterable[Instance], at: datetime
) -> dict[InstanceId, Instance | None]:
    """Return what was there at `at`, given all changes that are kept, and what is there `now`.

    An instance that left after `at`, and came before the history begins, has None in place of its value.
    One without any change that is there now was there all the time.
    """
    present: dict[InstanceId, Instance | None] = {}
    known: set[InstanceId] = set()
    for change in changes:
        id, event = change.id, change.event
        if change.time <= at:
            if isinstance(event, Added):
                present[id] = event.instance
            else:
                present.pop(id, None)
        elif id not in known and isinstance(event, Removed):
            present[id] = None
        known.add(id)
    present.update((one.id, one) for one in now if one.id not in known)
    return present
