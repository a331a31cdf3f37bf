"""The rows that the page shows, kept live by views, and handed on to each open page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from natsdisc import Added, Discovery, View, endpoints, event_channels, event_sources, log, models
from natsdisc.model import Event, Instance, InstanceId
from natsdisc.safe import safe

from .journal import Journal
from .rows import name_of, row_id, row_of

__all__ = ["Live", "Page"]

# Idle heartbeats come every 1.5 s: an older picture is not being confirmed.
STALE_S = 4.0
_MOST_NOTICES = 20
_NOTICE_KEPT_S = 120.0
# An open page that has so many more than twice all rows still to be sent begins again.
_SPARE = 10_000


class Page:
    """The news that one open page has still to hear. It is bounded: a row that changes twice is sent once."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any] | None] = {}
        self.entries: deque[dict[str, Any]] = deque(maxlen=200)
        self.wake = asyncio.Event()
        self.is_behind = False
        self.most = _SPARE

    def put(self, id: str, row: dict[str, Any] | None) -> None:
        """Have a row sent, or with None its removal.

        A page that reads too slowly has to begin again: it then gets the rows that are there.
        """
        self.rows[id] = row
        self.is_behind = self.is_behind or len(self.rows) > self.most
        if self.is_behind:
            self.rows.clear()
        self.wake.set()


class Live:
    """All instances as rows, the journal, and the state of the views they come from."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        self.rows: dict[str, dict[str, Any]] = {}
        self.journal = Journal()
        self._views: list[View[Any]] = []
        self._pages: set[Page] = set()
        self._notices: deque[tuple[float, str, str]] = deque(maxlen=_MOST_NOTICES)
        self._arrived: dict[str, float] = {}
        self._is_stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the rows live inside the block."""
        handler = _Notices(self._notice)
        logger = log.logger("natsdisc")
        logger.addHandler(handler)
        try:
            async with AsyncExitStack() as stack:
                for query in (endpoints(), models(), event_channels(), event_sources()):
                    view: View[Any] = await stack.enter_async_context(self.discovery.view(query))
                    self._views.append(view)
                    # No await between the first picture and the subscription: no event is missed.
                    for instance in view.instances:
                        self._take(instance)
                    view.subscribe(self._hear)
                self.journal.count(len(self.rows))
                yield
        finally:
            logger.removeHandler(handler)
            self._views.clear()
            self.stop()

    def stop(self) -> None:
        """End the messages of every open page, so that a server can end."""
        self._is_stopped = True
        for page in self._pages:
            page.wake.set()

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A page that hears of every row, and of all that changes inside the block."""
        page = Page()
        self.fill(page)
        page.entries.extend(self.journal.entries)
        self._pages.add(page)
        try:
            yield page
        finally:
            self._pages.discard(page)

    def fill(self, page: Page) -> None:
        """Have all rows sent to a page."""
        page.is_behind = False
        page.rows = dict(self.rows)
        page.most = 2 * len(self.rows) + _SPARE
        page.wake.set()

    @property
    def is_running(self) -> bool:
        return bool(self._views) and not self._is_stopped

    def arrived(self, id: InstanceId) -> float | None:
        """Return when an instance was seen to arrive (seconds since 1970); None if it was there before."""
        return self._arrived.get(row_id(id))

    def find(self, id: InstanceId) -> Instance | None:
        """Return the instance with this id, if it is there."""
        return next((found for view in self._views if (found := view.get(id)) is not None), None)

    def count(self, instance: Instance) -> int:
        """Return how many rows are at the place of an instance."""
        place = row_of(instance)["place"]
        return sum(row["place"] == place for row in self.rows.values())

    def state(self) -> dict[str, Any]:
        """Return how far the rows can be believed, and the counts of the last hour."""
        age = max((view.age for view in self._views), default=float("inf"))
        oldest = time.time() - _NOTICE_KEPT_S
        return {
            "synced": bool(self._views) and all(view.synced for view in self._views),
            "age": round(min(age, 1e9), 1),
            "stale": age > STALE_S,
            "instances": len(self.rows),
            "minutes": self.journal.minutes(),
            "notices": [
                {"time": at, "event": event, "text": text} for at, event, text in self._notices if at > oldest
            ],
        }

    def _take(self, instance: Instance) -> bool:
        """Keep the row of an instance; return whether it is a new one."""
        row = row_of(instance)
        is_new = row["id"] not in self.rows
        self.rows[row["id"]] = row
        for page in self._pages:
            page.put(row["id"], row)
        return is_new

    def _hear(self, event: Event) -> None:
        if isinstance(event, Added):
            id = event.instance.id
            what = "added" if self._take(event.instance) else "changed"
            if what == "added":
                self._arrived[row_id(id)] = time.time()
        else:
            id, what = event.id, str(event.reason)
            self.rows.pop(row_id(id), None)
            self._arrived.pop(row_id(id), None)
            for page in self._pages:
                page.put(row_id(id), None)
        entry = self.journal.note(what, row_id(id), name_of(id), len(self.rows))
        for page in self._pages:
            page.entries.append(entry)

    def _notice(self, event: str, text: str) -> None:
        self._notices.append((time.time(), event, safe(text)))


class _Notices(logging.Handler):
    """Warnings of the library, for the page."""

    def __init__(self, take: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(str(getattr(record, "natsdisc_event", "")), record.getMessage())
