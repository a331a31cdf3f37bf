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
6. After `recover`, for ten times the grace, many owners may be on their way back. What expires or is absent
   then is held until none of it has come back for three times the grace, instead of each for the grace.
7. Every change says what was before and after, so changes of one key can be joined, and cancel out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from . import wire
from .errors import InvalidValueError
from .model import Added, Event, Instance, RemovalReason, Removed

__all__ = ["UNREADABLE_KEPT", "Backlog", "Change", "Fold", "few"]

# Seconds. An owner finds out with its next renewal, after a third of its ttl (10 s unless chosen), that its
# value was written over. The rest is for a renewal that has to be sent again, and for an election.
UNREADABLE_KEPT = 15.0

# Multiples of the grace: how long owners are waited for after `recover`, and since the last one came back.
_RECOVERY_GRACES, _QUIET_GRACES = 10, 3

# A reader that is further behind than so many changes, or than a few, looks at the whole picture again.
_REMEMBERED = 1_000


class Change(NamedTuple):
    """One key's step: `before` None is new, `after` None is gone (then with a reason)."""

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


class Fold:
    """The picture of a query, and the changes that lead to it."""

    def __init__(
        self, decode: Callable[[str, bytes], Instance], *, grace: float, patience: float = UNREADABLE_KEPT
    ) -> None:
        self._decode = decode
        self._grace = grace
        self._patience = max(grace, patience)
        # One dict more is smaller than one object an instance.
        self._live: dict[str, Instance] = {}
        self._values: dict[str, bytes] = {}
        # Insertion order is deadline order: the grace is one constant and time does not run back.
        self._held: OrderedDict[str, tuple[float, RemovalReason]] = OrderedDict()
        # Rule 2: when they become `missing`. A key is in one of the two at most.
        self._unreadable: OrderedDict[str, float] = OrderedDict()
        # Rule 6: all of these fall due at one moment.
        self._awaited: dict[str, RemovalReason] = {}
        self._awaited_until = self._recovery_until = float("-inf")
        self._seen: set[str] | None = None
        self.synced = False
        self.version = 0  # grows with every change
        self._recent: deque[Change] = deque(maxlen=_REMEMBERED)

    @property
    def instances(self) -> Iterable[Instance]:
        """The instances that are believed to be there, in no order."""
        return self._live.values()

    def copy(self) -> Fold:
        """The picture as it is now, for who no longer follows."""
        copy = Fold(self._decode, grace=self._grace, patience=self._patience)
        copy._live, copy._values = dict(self._live), dict(self._values)
        copy.synced, copy.version = self.synced, self.version
        return copy

    @property
    def live(self) -> dict[str, Instance]:
        """The instances that are believed to be there, by their keys; read only."""
        return self._live

    def since(self, version: int) -> list[Change] | None:
        """The changes after `version`, in order; None when they are no longer known."""
        missing = self.version - version
        if missing > len(self._recent):
            return None
        return list(islice(reversed(self._recent), missing))[::-1]

    def __len__(self) -> int:
        return len(self._live)

    def find(self, key: str) -> Instance | None:
        """Return the instance that is believed to be under `key`."""
        return self._live.get(key)

    @property
    def due(self) -> float | None:
        """When the next held removal falls due."""
        due = [deadline for deadline, _ in islice(self._held.values(), 1)]
        due += islice(self._unreadable.values(), 1)
        due += [self._awaited_until] if self._awaited else []
        return min(due, default=None)

    def recover(self, now: float) -> None:
        """Owners may be on their way back: hold removals as rule 6 says."""
        self._recovery_until = now + _RECOVERY_GRACES * self._grace

    def begin(self) -> None:
        """A snapshot starts; one that was under way is forgotten."""
        self._seen = set()

    def put(self, entries: Iterable[tuple[str, bytes]], now: float) -> list[Change]:
        """Each key holds the value beside it."""
        live, values, decode = self._live, self._values, self._decode
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
                self._doubt(key, now)
                continue
            if before is not None:
                self._let_go(key)
                if _same(before, instance):
                    continue  # written in another way
            live[key], values[key] = instance, value
            changes.append(Change(key, before, instance))
        self._remember(changes)
        return changes

    def delete(self, key: str, reason: RemovalReason, now: float) -> list[Change]:
        """`key` was removed."""
        if self._seen is not None:
            self._seen.add(key)
        if key not in self._live:
            return []
        if reason is RemovalReason.UNREGISTERED:
            return [self._remove(key, reason)]
        self._hold(key, reason, now)
        return []

    def keep(self, key: str, now: float) -> None:
        """`key` has a message that is not to be believed."""
        if self._seen is not None:
            self._seen.add(key)
        self._doubt(key, now)

    def end(self, now: float) -> None:
        """The snapshot is complete."""
        if self._seen is None:
            return
        for key in self._live.keys() - self._seen:
            if key not in self._held and key not in self._awaited:
                self._hold(key, RemovalReason.MISSING, now)
        self._seen = None
        self.synced = True

    def advance(self, now: float) -> list[Change]:
        """The held removals that are due at `now`."""
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

    def _doubt(self, key: str, now: float) -> None:
        if key in self._live and key not in self._held and key not in self._awaited:
            self._unreadable.setdefault(key, now + self._patience)

    def _let_go(self, key: str) -> None:
        self._held.pop(key, None)
        self._unreadable.pop(key, None)
        self._awaited.pop(key, None)

    def _remove(self, key: str, reason: RemovalReason) -> Change:
        self._let_go(key)
        last = self._live.pop(key)
        del self._values[key]
        change = Change(key, last, None, reason)
        self._remember((change,))
        return change

    def _remember(self, changes: Sequence[Change]) -> None:
        self.version += len(changes)
        self._recent.extend(changes)
        # Each holds what was there: many changes of a few large cards would take more than the picture.
        while len(self._recent) > few(len(self._live)):
            self._recent.popleft()


class Backlog:
    """The changes one reader has not looked at yet: at most one a key, however many there were."""

    def __init__(self, live: dict[str, Instance] | None = None) -> None:
        """It begins with what is `live`, all of it still to be told."""
        # The last item of a plain dict is popped in constant time, its first one is not.
        self._first = dict(reversed((live or {}).items()))
        self._changes: OrderedDict[str, Change] = OrderedDict()

    def __len__(self) -> int:
        return len(self._first) + len(self._changes)

    def push(self, changes: Iterable[Change]) -> int:
        """Join each change to what is pending for its key, or append it; how many were joined.

        What ends where it began is dropped.
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
            if _same(before, change.after):
                all_pending.pop(key, None)
            else:
                all_pending[key] = change._replace(before=before)
        return joined

    def pop(self) -> Event:
        """The oldest pending change as an event; raises KeyError when there is none."""
        if self._first:
            return Added(self._first.popitem()[1])
        return self._changes.popitem(last=False)[1].event


def few(count: int) -> int:
    """Return how many changes of `count` instances are cheaper to patch in than to look at all of them."""
    return 8 + count // 64


def _same(one: Instance | None, other: Instance | None) -> bool:
    """Whether two states are the same. For Python 1, 1.0 and True are; for JSON they are not."""
    if one is None or other is None:
        return one is other
    return one == other and wire.dumps(one) == wire.dumps(other)
