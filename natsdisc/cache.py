"""From what a bucket's reader reports to what changed for a user. Pure: time comes in as an argument.

Rules
1. The picture maps keys to instances. A put that decodes sets its key; the same bytes again change nothing.
2. A put that does not decode, or names another instance than its key, proves nothing about the key's owner.
   The picture keeps what it has for `patience` seconds, in which the owner can put its value back. Then the
   key is `missing`. More such puts do not prolong that. Without an instance in the picture such a put changes
   nothing.
3. A snapshot is `begin`, puts and deletes, `end`. Keys of the picture that it did not mention are absent. A
   put that does not decode mentions its key.
4. `unregistered` removes at once. `expired` and absence are held for the grace first, also when rule 2 keeps
   the key; a put that decodes ends either hold, and the same bytes again mean that nothing happened.
5. `keep` says that a key's message is not to be believed. It is treated like a put that does not decode.
6. After `recover`, for ten times the grace, many owners may be on their way back. A removal by expiry or
   absence is then held until none has come back for three times the grace, instead of each for the grace.
7. Every change says what was before and after, so changes of one key can be joined, and cancel out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

from .changes import Change, is_same
from .errors import InvalidValueError
from .model import Instance, RemovalReason
from .picture import Picture

__all__ = ["UNREADABLE_KEPT_S", "Cache"]

# An owner finds out with its next renewal, after a third of its ttl (10 s unless chosen), that its value was
# written over. The rest is for a renewal that has to be sent again, and for an election.
UNREADABLE_KEPT_S = 15.0

# Multiples of the grace: how long owners are waited for after `recover`, and since the last one came back.
_RECOVERY_GRACES, _QUIET_GRACES = 10, 3


class Cache:
    """The picture of a query, kept by what a reader reports of its bucket."""

    def __init__(
        self, decode: Callable[[str, bytes], Instance], *, grace: float, patience: float = UNREADABLE_KEPT_S
    ) -> None:
        """`decode` makes an instance of a key and its value; `grace` and `patience` are in seconds."""
        self._decode = decode
        self._grace = grace
        self._patience = max(grace, patience)
        self.picture = Picture()
        # One dict more is smaller than one object an instance.
        self._values: dict[str, bytes] = {}
        # Insertion order is deadline order: the grace is one constant and time does not run back.
        self._held: OrderedDict[str, tuple[float, RemovalReason]] = OrderedDict()
        # Rule 2: when they become `missing`. A key is in one of the two at most.
        self._unreadable: OrderedDict[str, float] = OrderedDict()
        # Rule 6: all of these fall due at one moment.
        self._awaited: dict[str, RemovalReason] = {}
        self._awaited_until = self._recovery_until = float("-inf")
        self._seen: set[str] | None = None

    @property
    def due(self) -> float | None:
        """The time at which the next held removal falls due; None without one."""
        due = [deadline for deadline, _ in islice(self._held.values(), 1)]
        due += islice(self._unreadable.values(), 1)
        due += [self._awaited_until] if self._awaited else []
        return min(due, default=None)

    def recover(self, now: float) -> None:
        """Hold removals as rule 6 says: owners may be on their way back."""
        self._recovery_until = now + _RECOVERY_GRACES * self._grace

    def begin(self) -> None:
        """Begin a snapshot, and forget one that was under way."""
        self._seen = set()

    def put(self, entries: Iterable[tuple[str, bytes]], now: float) -> list[Change]:
        """Take over that each key holds the value beside it; return what changed."""
        live, values, decode = self.picture.live, self._values, self._decode
        changes = []
        for key, value in entries:
            if self._seen is not None:
                self._seen.add(key)
            before = live.get(key)
            if self._awaited and key in self._awaited:
                self._awaited_until = min(now + _QUIET_GRACES * self._grace, self._recovery_until)
            if before is not None and values[key] == value:
                self._let_go(key)
                continue
            try:
                instance = decode(key, value)
            except InvalidValueError:
                self._keep_for_now(key, now)
                continue
            if before is not None:
                self._let_go(key)
                if is_same(before, instance):
                    continue  # written in another way
            values[key] = value
            change = Change(key, before, instance)
            self.picture.apply(change)
            changes.append(change)
        return changes

    def delete(self, key: str, reason: RemovalReason, now: float) -> list[Change]:
        """Take over that `key` was removed; return what changed."""
        if self._seen is not None:
            self._seen.add(key)
        if key not in self.picture.live:
            return []
        if reason is RemovalReason.UNREGISTERED:
            return [self._remove(key, reason)]
        self._hold(key, reason, now)
        return []

    def keep(self, key: str, now: float) -> None:
        """Take over that `key` has a message that is not to be believed."""
        if self._seen is not None:
            self._seen.add(key)
        self._keep_for_now(key, now)

    def end(self, now: float) -> None:
        """Complete the snapshot."""
        if self._seen is None:
            return
        for key in self.picture.live.keys() - self._seen:
            if key not in self._held and key not in self._awaited:
                self._hold(key, RemovalReason.MISSING, now)
        self._seen = None
        self.picture.synced = True

    def advance(self, now: float) -> list[Change]:
        """Make the held removals that are due at `now`, and return them."""
        changes = []
        while self._held:
            key, (deadline, reason) = next(iter(self._held.items()))
            if deadline > now:
                break
            changes.append(self._remove(key, reason))
        while self._unreadable:
            key, deadline = next(iter(self._unreadable.items()))
            if deadline > now:
                break
            changes.append(self._remove(key, RemovalReason.MISSING))
        if self._awaited and self._awaited_until <= now:
            changes += [self._remove(key, reason) for key, reason in list(self._awaited.items())]
        return changes

    def _hold(self, key: str, reason: RemovalReason, now: float) -> None:
        self._unreadable.pop(key, None)
        if key in self._awaited or (now < self._recovery_until and key not in self._held):
            if not self._awaited:
                self._awaited_until = min(now + _QUIET_GRACES * self._grace, self._recovery_until)
            self._awaited[key] = reason
            return
        held = self._held.get(key)
        self._held[key] = (held[0] if held is not None else now + self._grace, reason)

    def _keep_for_now(self, key: str, now: float) -> None:
        """Keep an instance for the patience of rule 2, if one is there and nothing else holds it."""
        if key in self.picture.live and key not in self._held and key not in self._awaited:
            self._unreadable.setdefault(key, now + self._patience)

    def _let_go(self, key: str) -> None:
        self._held.pop(key, None)
        self._unreadable.pop(key, None)
        self._awaited.pop(key, None)

    def _remove(self, key: str, reason: RemovalReason) -> Change:
        self._let_go(key)
        del self._values[key]
        change = Change(key, self.picture.live[key], None, reason)
        self.picture.apply(change)
        return change
