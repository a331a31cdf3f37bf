"""The components that a Discovery keeps free of dead entries, because it has living ones there."""

from __future__ import annotations

from collections.abc import Callable

from .registration import Registration
from .stats import Counters
from .store import Bucket

__all__ = ["Sweeping"]


class Sweeping:
    """The sweeps of one Discovery. `held` returns the keys of a bucket that no sweep may remove."""

    def __init__(self, held: Callable[[Bucket], frozenset[str]], stats: Counters) -> None:
        self._held = held
        self._stats = stats
        self._holders: dict[Bucket, _Holder] = {}
        self._ends: dict[tuple[Bucket, str], Callable[[], None]] = {}

    def keep_swept(self, registration: Registration) -> None:
        """Have the component of a leased instance kept free of dead ones, until `end`."""
        bucket = registration._bucket
        place = bucket, ".".join(registration._key.split(".")[:2])
        if registration.lease_ttl is not None and place not in self._ends:
            holder = self._holders.setdefault(bucket, _Holder(self._held, bucket, self._stats))
            self._ends[place] = bucket.keep_swept(place[1], holder)

    def end(self) -> None:
        """Sweep no more."""
        for end in self._ends.values():
            end()
        self._ends.clear()


class _Holder:
    """The answers that the sweeps of one bucket want."""

    def __init__(self, held: Callable[[Bucket], frozenset[str]], bucket: Bucket, stats: Counters) -> None:
        self._held, self._bucket, self._stats = held, bucket, stats

    def held(self) -> frozenset[str]:
        return self._held(self._bucket)

    def note_swept(self, count: int) -> None:
        self._stats.swept += count

    def note_wrong_copy(self) -> None:
        self._stats.wrong_copies += 1
