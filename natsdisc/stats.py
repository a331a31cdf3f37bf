"""The counters of a Discovery, and what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .model import Query

__all__ = ["Counters", "QueryState", "Renewals", "Stats"]


@dataclass(frozen=True, slots=True)
class QueryState:
    """A query that is followed: how many instances, whether the first picture is complete, and its age."""

    instances: int
    synced: bool
    age: float  # seconds since the server last confirmed it


@dataclass(frozen=True, slots=True)
class Renewals:
    """Lease renewals that the server confirmed, and the seconds it took: in all, and the longest."""

    count: int
    seconds: float
    longest: float


@dataclass(frozen=True, slots=True)
class Stats:
    """The counts since a Discovery was made; `queries` and `registrations` are as they are now."""

    events: int
    conflated: int
    resyncs: Mapping[str, int]
    invalid: int
    forged: int
    untrusted: int
    task_failures: int
    heartbeats: int
    renewals: Renewals
    fence_failures: int
    reregistrations: int
    swept: int
    wrong_copies: int
    panics: int
    queries: Mapping[Query, QueryState]
    registrations: Mapping[str, int]


@dataclass(slots=True)
class Counters:
    """The counters themselves."""

    events: int = 0
    conflated: int = 0
    resyncs: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    forged: int = 0
    untrusted: int = 0
    task_failures: int = 0
    heartbeats: int = 0
    renewed: int = 0
    renewal_seconds: float = 0.0
    longest_renewal: float = 0.0
    fence_failures: int = 0
    reregistrations: int = 0
    swept: int = 0
    wrong_copies: int = 0
    panics: int = 0

    def note_renewals(self, count: int, seconds: float) -> None:
        """Count leases that were renewed together."""
        if count:
            self.renewed += count
            self.renewal_seconds += count * seconds
            self.longest_renewal = max(self.longest_renewal, seconds)

    def snapshot(self, queries: Mapping[Query, QueryState], registrations: Mapping[str, int]) -> Stats:
        """The counters as they are now, beside what is seen now."""
        return Stats(
            events=self.events,
            conflated=self.conflated,
            resyncs=MappingProxyType(dict(self.resyncs)),
            invalid=self.invalid,
            forged=self.forged,
            untrusted=self.untrusted,
            task_failures=self.task_failures,
            heartbeats=self.heartbeats,
            renewals=Renewals(self.renewed, self.renewal_seconds, self.longest_renewal),
            fence_failures=self.fence_failures,
            reregistrations=self.reregistrations,
            swept=self.swept,
            wrong_copies=self.wrong_copies,
            panics=self.panics,
            queries=MappingProxyType(queries),
            registrations=MappingProxyType(registrations),
        )
