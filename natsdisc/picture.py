"""The instances of one query: by their keys, sorted by id, and those to choose from first.

One picture serves all watches and views of a query. Its event loop's thread changes it; any thread may read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection
from typing import TypeAlias

from .changes import Change
from .model import SORT_KEYS, EndpointInstance, Instance, Status, sort_key

__all__ = ["Picture", "SortKey", "cheaper_to_patch", "status_of", "without"]

SortKey: TypeAlias = tuple[str, str, str, int, str]

# Changes that are remembered at most. A reader that is further behind looks at all instances again.
_MOST_REMEMBERED = 1_000
# The order in which instances are chosen when none is serving.
_INSTEAD_OF_SERVING = (Status.DRAINING, Status.UNHEALTHY)


class Picture:
    """The instances that are believed to be there. `version` grows by one with every change."""

    def __init__(self) -> None:
        self.live: dict[str, Instance] = {}
        self.version = 0
        self.synced = False
        # Each with the version that it led to. A thread that reads copies them in one step.
        self._recent: deque[tuple[int, Change]] = deque()
        self._not_serving: dict[str, Instance] = {}
        # Both with the version that they show, so that a thread never sees one without the other.
        self._sorted: tuple[int, tuple[Instance, ...]] = (0, ())
        self._preferred: tuple[int, tuple[Instance, ...]] = (0, ())

    def __len__(self) -> int:
        return len(self.live)

    def apply(self, change: Change) -> None:
        """Take over one step of one key."""
        key, after = change.key, change.after
        if after is None:
            del self.live[key]
            self._not_serving.pop(key, None)
        else:
            self.live[key] = after
            if status_of(after) is not Status.SERVING:
                self._not_serving[key] = after
            elif self._not_serving:
                self._not_serving.pop(key, None)
        # The change first: a thread that knows a version must find what led to it.
        recent = self._recent
        recent.append((self.version + 1, change))
        self.version += 1
        # Each holds what was there: many changes of a few large cards would take more than the picture.
        limit = cheaper_to_patch(len(self.live))
        while len(recent) > limit:
            recent.popleft()

    def copy(self) -> Picture:
        """Return the picture as it is now, for a view that no longer follows."""
        copy = Picture()
        copy.live, copy._not_serving = dict(self.live), dict(self._not_serving)
        copy.synced, copy.version = self.synced, self.version
        copy._sorted, copy._preferred = self._sorted, self._preferred
        copy._recent = self._recent.copy()
        return copy

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances, sorted by id: the same tuple until something changes."""
        version, instances = self._sorted
        return instances if version == self.version else self._sort()

    @property
    def preferred(self) -> tuple[Instance, ...]:
        """The serving instances, else those that drain, else the unhealthy ones; never a disabled one.

        It is the same tuple until something changes.
        """
        version, preferred = self._preferred
        return preferred if version == self.version else self._prefer()

    def _sort(self) -> tuple[Instance, ...]:
        """Patch the changes since the last call into the sorted tuple, or sort all if that is cheaper."""
        version, instances = self._sorted
        steps = [step for step in tuple(self._recent) if step[0] > version]
        if steps and steps[0][0] == version + 1 and len(steps) <= cheaper_to_patch(len(instances)):
            patched = list(instances)
            for _, change in steps:
                _patch(patched, change)
            version = steps[-1][0]
        else:
            version, patched = self.version, list(self.live.values())
            for by in SORT_KEYS:
                patched.sort(key=by)
        self._sorted = (version, tuple(patched))
        return self._sorted[1]

    def _prefer(self) -> tuple[Instance, ...]:
        version, instances = self.version, self.instances
        others = tuple(self._not_serving.values())
        preferred = without(instances, {sort_key(one) for one in others})
        for status in _INSTEAD_OF_SERVING:
            if not preferred:
                preferred = tuple(one for one in instances if status_of(one) is status)
        self._preferred = (version, preferred)
        return preferred


def status_of(instance: Instance) -> Status:
    """Return the status of an endpoint; a model card has none, and is always serving."""
    return instance.status if isinstance(instance, EndpointInstance) else Status.SERVING


def cheaper_to_patch(count: int) -> int:
    """Return how many changes of `count` instances are cheaper to patch in than a rebuild, up to 1,000."""
    return min(8 + count // 64, _MOST_REMEMBERED)


def without(instances: tuple[Instance, ...], left_out: Collection[SortKey]) -> tuple[Instance, ...]:
    """Return `instances`, which are sorted, except those with these keys."""
    if not left_out:
        return instances
    if len(left_out) > cheaper_to_patch(len(instances)):
        return tuple(one for one in instances if sort_key(one) not in left_out)
    rest = list(instances)
    for key in left_out:
        at = bisect_left(rest, key, key=sort_key)
        if at < len(rest) and sort_key(rest[at]) == key:
            del rest[at]
    return tuple(rest)


def _patch(instances: list[Instance], change: Change) -> None:
    known = change.before if change.after is None else change.after
    assert known is not None
    key = sort_key(known)
    at = bisect_left(instances, key, key=sort_key)
    count = int(at < len(instances) and sort_key(instances[at]) == key)
    instances[at : at + count] = [] if change.after is None else [change.after]
