"""The steps of a query's instances, and those that one reader has not been told yet. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from . import wire
from .model import Added, Event, Instance, RemovalReason, Removed

__all__ = ["Change", "PendingChanges", "is_same"]


class Change(NamedTuple):
    """One key's step: with `before` None it is new, with `after` None it is gone, and has a reason."""

    key: str
    before: Instance | None
    after: Instance | None
    reason: RemovalReason | None = None

    @property
    def event(self) -> Event:
        """The event that a user is told."""
        if self.after is not None:
            return Added(self.after)
        assert self.before is not None
        assert self.reason is not None
        return Removed(self.before.id, self.reason, self.before)


class PendingChanges:
    """The changes that one reader has not been told yet: at most one a key, however many there were."""

    def __init__(self, live: dict[str, Instance] | None = None) -> None:
        """Begin with all instances in `live`, each still to be told as Added."""
        # The last item of a plain dict is popped in constant time, its first one is not.
        self._first = dict(reversed((live or {}).items()))
        self._changes: OrderedDict[str, Change] = OrderedDict()

    def __len__(self) -> int:
        return len(self._first) + len(self._changes)

    def push(self, changes: Iterable[Change]) -> int:
        """Join each change to the one pending for its key, or append it; return how many were joined.

        A key that ends in the state in which it began is dropped.
        """
        joined, first, all_pending = 0, self._first, self._changes
        for change in changes:
            key = change.key
            if key in first:
                before = None
                del first[key]
            elif key in all_pending:
                before = all_pending[key].before
            else:
                all_pending[key] = change
                continue
            joined += 1
            if is_same(before, change.after):
                all_pending.pop(key, None)
            else:
                all_pending[key] = change._replace(before=before)
        return joined

    def pop(self) -> Event:
        """Return the oldest pending change as an event; raise KeyError if there is none."""
        if self._first:
            return Added(self._first.popitem()[1])
        return self._changes.popitem(last=False)[1].event


def is_same(one: Instance | None, other: Instance | None) -> bool:
    """Return whether two states are the same. For Python 1, 1.0 and True are equal; for JSON they differ."""
    if one is None or other is None:
        return one is other
    return one == other and wire.dumps(one) == wire.dumps(other)
