"""The arrivals and removals of the last hour: a bounded list, and counts for each minute."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Journal"]

_MOST_ENTRIES = 1_000
_MINUTES = 60
_MINUTE_S = 60.0


@dataclass(slots=True)
class _Minute:
    """The counts of one minute; `instances` is how many there were at its end."""

    minute: int
    instances: int = 0
    arrived: int = 0
    changed: int = 0
    left: int = 0
    lost: int = 0


class Journal:
    """Arrivals and removals since the page's server began, for at most an hour."""

    def __init__(self) -> None:
        self.entries: deque[dict[str, Any]] = deque(maxlen=_MOST_ENTRIES)
        self._minutes: deque[_Minute] = deque(maxlen=_MINUTES)

    def note(self, what: str, id: str, name: str, instances: int) -> dict[str, Any]:
        """Take down that `what` happened to an instance, with `instances` of them now; return the entry.

        `what` is "added", "changed", or the reason of a removal.
        """
        entry = {"time": round(time.time(), 3), "what": what, "id": id, "name": name}
        self.entries.append(entry)
        minute = self._this_minute()
        minute.instances = instances
        if what == "added":
            minute.arrived += 1
        elif what == "changed":
            minute.changed += 1
        elif what == "unregistered":
            minute.left += 1
        else:
            minute.lost += 1
        return entry

    def count(self, instances: int) -> None:
        """Take down how many instances there are now."""
        self._this_minute().instances = instances

    def minutes(self) -> list[dict[str, int]]:
        """Return the counts of the last hour, oldest first, quiet minutes included."""
        self._this_minute()
        return [asdict(minute) for minute in self._minutes]

    def _this_minute(self) -> _Minute:
        now = int(time.time() // _MINUTE_S)
        if not self._minutes:
            self._minutes.append(_Minute(now))
        while self._minutes[-1].minute < now:
            last = self._minutes[-1]
            first = max(last.minute + 1, now - _MINUTES)
            self._minutes.append(_Minute(first, last.instances))
        return self._minutes[-1]
