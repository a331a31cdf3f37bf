"""Log lines about registrations: one line for the hundreds of a process that share a fate."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from . import log
from .model import InstanceId
from .store import Found

__all__ = ["Report", "Reports"]

_log = log.logger(__name__)

# Seconds in which registrations of the same fate are gathered, and after a line until the next of its kind.
_GATHER, _QUIET = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """A kind of line: the event, its level, and what it says of one instance or of several."""

    event: str
    level: int
    one: str
    many: str


RECOVERING = Report(
    "recovering",
    logging.WARNING,
    "the lease of %s is not renewed, and others may see it expire until this passes: %s",
    "the leases of %d registrations (one is %s) are not renewed, and others may see them expire until this "
    "passes: %s",
)
CLOSED = Report(
    "recovering",
    logging.ERROR,
    "the lease of %s is not renewed any more, because the connection was closed for good: %s",
    "the leases of %d registrations (one is %s) are not renewed any more, because the connection was closed "
    "for good: %s",
)
ACTIVE = Report(
    "active_again", logging.INFO, "%s is active again%s", "%d registrations (one is %s) are active again%s"
)
_EXPIRED = "had expired, and is registered again: a process or a server was held up for a ttl%s"
_REMOVED = "was removed by another client, and is registered again%s"
_OVERWRITTEN = "was overwritten by another client, and is registered again%s"
_MISSING = "was not there any more, and is registered again: its bucket was emptied or made anew%s"
_ONE, _MANY = "%s ", "%d registrations (one is %s): each "
FOUND = {
    Found.EXPIRED: Report("reregistered_expired", logging.WARNING, _ONE + _EXPIRED, _MANY + _EXPIRED),
    Found.REMOVED: Report("reregistered_removed", logging.WARNING, _ONE + _REMOVED, _MANY + _REMOVED),
    Found.OVERWRITTEN: Report(
        "reregistered_overwritten", logging.WARNING, _ONE + _OVERWRITTEN, _MANY + _OVERWRITTEN
    ),
    Found.MISSING: Report("reregistered_missing", logging.WARNING, _ONE + _MISSING, _MANY + _MISSING),
}
UPDATED = Report(
    "updated_by_another",
    logging.INFO,
    "%s was updated by another client; its owner goes on with that%s",
    "%d registrations (one is %s) were updated by other clients; their owner goes on with that%s",
)
DRAINED = Report(
    "drained_by_another",
    logging.INFO,
    "%s was drained by another client%s",
    "%d registrations (one is %s) were drained by other clients%s",
)


class Reports:
    """Gathers what happens to registrations, and writes one line for many, and few lines for a condition."""

    def __init__(self) -> None:
        self._gathered: dict[Report, tuple[int, InstanceId, object]] = {}
        self._timers: dict[Report, asyncio.TimerHandle] = {}
        self._not_before: dict[Report, float] = {}

    def note(self, report: Report, id: InstanceId, reason: object = "") -> None:
        """Have `report` written for `id` soon, together with the others of the next moments."""
        count, first, _ = self._gathered.get(report, (0, id, reason))
        self._gathered[report] = count + 1, first, reason
        if report not in self._timers:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + _GATHER, self._not_before.get(report, 0.0))
            self._timers[report] = loop.call_at(at, self._write, report)

    def flush(self) -> None:
        """Write what was gathered."""
        for report, timer in list(self._timers.items()):
            timer.cancel()
            if report in self._timers:
                self._write(report)

    def _write(self, report: Report) -> None:
        if report is ACTIVE:  # the end is not told before the beginning
            for earlier in (RECOVERING, CLOSED):
                if earlier in self._timers:
                    self._timers[earlier].cancel()
                    self._write(earlier)
        self._not_before[report] = asyncio.get_running_loop().time() + _QUIET
        del self._timers[report]
        count, id, reason = self._gathered.pop(report)
        _log.log(
            report.level,
            report.one if count == 1 else report.many,
            *((id, reason) if count == 1 else (count, id, reason)),
            extra=log.fields(report.event, id=id, count=count, **({"error": reason} if reason else {})),
        )
