"""Instances that were reported to fail, and are set aside for a while."""

from __future__ import annotations

import heapq
import random

from .clock import Clock
from .picture import SortKey

__all__ = ["Ejections"]

# A reported instance is set aside this long, twice as long each time it fails again, to a limit.
_FIRST_REST_S, _LONGEST_REST_S = 0.5, 30.0
_MOST_DOUBLINGS = 6


class Ejections:
    """The instances that are set aside. `version` grows whenever `out` changes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Until when, and how often in a row. It stays afterwards, so that the next rest is longer.
        self._failures: dict[SortKey, tuple[float, int]] = {}
        self._returns: list[tuple[float, SortKey]] = []  # a heap
        self.out: set[SortKey] = set()
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._failures)

    def report(self, key: SortKey) -> None:
        """Set an instance aside, unless it is already: requests that failed together are one failure."""
        self.bring_back()
        if key in self.out:
            return
        now = self._clock.time()
        until, failures = self._failures.get(key, (now, 0))
        if now > until + _LONGEST_REST_S:
            failures = 0  # it has served well since
        rest = min(_FIRST_REST_S * 2 ** min(failures, _MOST_DOUBLINGS), _LONGEST_REST_S)
        until = now + rest * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load)
        self._failures[key] = (until, failures + 1)
        heapq.heappush(self._returns, (until, key))
        self.out.add(key)
        self.version += 1

    def forget(self, key: SortKey) -> None:
        """Forget the failures of an instance that is gone, or that is another one than that which failed."""
        self._failures.pop(key, None)
        if key in self.out:
            self.out.remove(key)
            self.version += 1

    def bring_back(self) -> None:
        """Bring back the instances whose time is over."""
        if not self._returns:
            return
        now = self._clock.time()
        while self._returns and self._returns[0][0] <= now:
            _, key = heapq.heappop(self._returns)
            # It may have been forgotten since, and reported again.
            if key in self.out and self._failures[key][0] <= now:
                self.out.remove(key)
                self.version += 1
