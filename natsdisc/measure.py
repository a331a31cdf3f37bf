"""The metrics of a Discovery, for every kind of exporter: one table over `Discovery.stats()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .stats import Stats
from .store import ResyncReason

__all__ = ["MEASURES", "Measure", "Value"]

# Labels and a number.
Value: TypeAlias = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class Measure:
    """One number, or one a label; `grows` tells a counter from what goes up and down."""

    name: str
    text: str
    read: Callable[[Stats], Iterator[Value]]
    unit: str = ""
    grows: bool = True


def _one(read: Callable[[Stats], float]) -> Callable[[Stats], Iterator[Value]]:
    return lambda stats: iter([({}, read(stats))])


def _resyncs(stats: Stats) -> Iterator[Value]:
    # All of them from the start: a rate needs the zero before the one.
    return (({"reason": str(reason)}, stats.resyncs.get(reason, 0)) for reason in ResyncReason)


def _registrations(stats: Stats) -> Iterator[Value]:
    return (({"state": state}, count) for state, count in stats.registrations.items())


def _instances(stats: Stats) -> Iterator[Value]:
    return (({"query": str(query)}, picture.instances) for query, picture in stats.queries.items())


def _synced(stats: Stats) -> Iterator[Value]:
    return (({"query": str(query)}, int(picture.synced)) for query, picture in stats.queries.items())


def _staleness(stats: Stats) -> Iterator[Value]:
    return (({"query": str(query)}, picture.age) for query, picture in stats.queries.items())


MEASURES = (
    Measure("instances", "Instances that are there, by query.", _instances, grows=False),
    Measure("synced", "1 when the first picture of a query is complete.", _synced, grows=False),
    Measure("staleness", "Since the server last confirmed the picture.", _staleness, unit="s", grows=False),
    Measure("registrations", "Registrations of this process, by state.", _registrations, grows=False),
    Measure("events", "Events that watches were given.", _one(lambda stats: stats.events)),
    Measure("conflated", "Changes joined for slow readers.", _one(lambda stats: stats.conflated)),
    Measure("resyncs", "New snapshots, by their reason.", _resyncs),
    Measure("invalid", "Entries skipped because they do not parse.", _one(lambda stats: stats.invalid)),
    Measure("forged", "Messages that must not be believed.", _one(lambda stats: stats.forged)),
    Measure("untrusted", "Values that no trusted key has signed.", _one(lambda stats: stats.untrusted)),
    Measure(
        "task_failures",
        "Background tasks and callbacks of users that failed.",
        _one(lambda stats: stats.task_failures),
    ),
    Measure("heartbeats", "Lease renewals sent.", _one(lambda stats: stats.heartbeats)),
    Measure("renewals", "Lease renewals confirmed.", _one(lambda stats: stats.renewals.count)),
    Measure("renewal", "Spent on confirmed renewals.", _one(lambda stats: stats.renewals.seconds), unit="s"),
    Measure(
        "longest_renewal",
        "The slowest confirmed renewal.",
        _one(lambda stats: stats.renewals.longest),
        unit="s",
        grows=False,
    ),
    Measure(
        "fence_failures",
        "Renewals that found the registration expired, changed or removed.",
        _one(lambda stats: stats.fence_failures),
    ),
    Measure("reregistrations", "Registrations made again.", _one(lambda stats: stats.reregistrations)),
    Measure(
        "swept", "Entries without a living owner that this process removed.", _one(lambda stats: stats.swept)
    ),
    Measure(
        "wrong_copies",
        "Replicas whose content was found to differ from their leader's.",
        _one(lambda stats: stats.wrong_copies),
    ),
    Measure("panics", "Times that a view lost too many instances at once.", _one(lambda stats: stats.panics)),
)
