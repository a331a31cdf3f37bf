"""What a Discovery counts."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Counters since a Discovery was made; `Discovery.stats` hands out copies."""

    events: int = 0
    conflated: int = 0
    resyncs: dict[str, int] = field(default_factory=dict)
    rubbish: int = 0
    forged: int = 0
    heartbeats: int = 0
    fence_failures: int = 0
    reregistrations: int = 0
