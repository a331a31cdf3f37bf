"""The counts of `natsdisc top`: the instances of each component, and what came and went."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from natsdisc.model import Added, Event, Instance, InstanceId, RemovalReason, Status
from natsdisc.safe import safe

from .path import path_of
from .render import detail, status_of

__all__ = ["Counts", "Row"]

_EVENTS_KEPT = 100
# Churn is told over the last minute (seconds).
_WINDOW = 60.0


@dataclass(slots=True)
class Row:
    """One component."""

    namespace: str
    component: str
    instances: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # how many instances have each
    counts: Counter[str] = field(default_factory=Counter)  # since the start: added, changed, and reasons

    @property
    def away(self) -> int:
        """The number of instances that take no new work."""
        return self.instances - self.statuses[Status.SERVING]


class Counts:
    """The instances that are there, and the events since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.live: dict[InstanceId, Instance] = {}
        self.events: deque[tuple[str, str, str]] = deque(maxlen=_EVENTS_KEPT)  # time of day, word, rest
        self._rows: dict[tuple[str, str], Counter[str]] = {}
        self._moments: deque[float] = deque()
        self._clock = clock

    def begin(self, instances: Iterable[Instance]) -> None:
        """Start with these instances."""
        self.live = {instance.id: instance for instance in instances}

    def take(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, Added):
            instance = event.instance
            word = "changed" if instance.id in self.live else "added"
            self.live[instance.id] = instance
            self._count(instance.id, word, detail(instance))
        else:
            self.live.pop(event.id, None)
            self._count(event.id, str(event.reason), "")

    @property
    def churn(self) -> int:
        """The number of arrivals and departures within the last minute."""
        now = self._clock()
        while self._moments and self._moments[0] < now - _WINDOW:
            self._moments.popleft()
        return len(self._moments)

    @property
    def totals(self) -> Counter[str]:
        """Everything since the start, by word."""
        return sum(self._rows.values(), Counter())

    @property
    def rows(self) -> list[Row]:
        """All components that are there, or were since the start, largest first."""
        rows = {place: Row(*place, counts=counts) for place, counts in self._rows.items()}
        for instance in self.live.values():
            place = (instance.namespace, instance.component)
            row = rows.setdefault(place, Row(*place))
            row.instances += 1
            row.statuses[status_of(instance)] += 1
        return sorted(rows.values(), key=lambda row: (-row.instances, row.namespace, row.component))

    def say(self, word: str, text: str) -> None:
        """Put a line between the events."""
        self.events.append((time.strftime("%H:%M:%S"), word, safe(text)))

    def _count(self, id: InstanceId, word: str, rest: str) -> None:
        self._rows.setdefault((id.namespace, id.component), Counter())[word] += 1
        if word in ("added", *RemovalReason):
            self._moments.append(self._clock())
        self.say(word, f"{path_of(id)}  {rest}".rstrip())
