"""What a Discovery counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Counters", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What was counted since a Discovery was made."""

    events: int
    conflated: int
    resyncs: Mapping[str, int]
    rubbish: int
    forged: int
    heartbeats: int
    fence_failures: int
    reregistrations: int


@dataclass(slots=True)
class Counters:
    """The counters themselves."""

    events: int = 0
    conflated: int = 0
    resyncs: Counter[str] = field(default_factory=Counter)
    rubbish: int = 0
    forged: int = 0
    heartbeats: int = 0
    fence_failures: int = 0
    reregistrations: int = 0

    def snapshot(self) -> Stats:
        """The counters as they are now."""
        return Stats(
            events=self.events,
            conflated=self.conflated,
            resyncs=MappingProxyType(dict(self.resyncs)),
            rubbish=self.rubbish,
            forged=self.forged,
            heartbeats=self.heartbeats,
            fence_failures=self.fence_failures,
            reregistrations=self.reregistrations,
        )
