"""The follower behind a view: wakes its waiters and calls its callbacks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from . import log
from .changes import Change
from .choice import Choice
from .errors import ClosedError, DiscoveryError
from .model import Added, Event, Query
from .notices import Notices
from .stats import Counters

__all__ = ["Listeners"]

_log = log.logger(__name__)


class Listeners:
    """The waiters and callbacks of a view. It outlives a dropped View until it is released."""

    def __init__(self, query: Query, choice: Choice, failures: Notices, stats: Counters) -> None:
        self._query = query
        self._choice = choice
        self._wake = asyncio.Event()
        self._callbacks: dict[int, Callable[[Event], object]] = {}
        self._numbers = itertools.count()
        self._error: DiscoveryError | None = None
        self._failures = failures
        self._stats = stats
        self.closed = False

    def changed(self, changes: Sequence[Change]) -> None:
        self._wake.set()
        # Before any callback, which may pick.
        self._choice.changed(changes)
        for change in changes if self._callbacks else ():
            for callback in list(self._callbacks.values()):
                self._call(callback, change.event)

    def left(self, key: str) -> None:
        self._choice.left(key)

    def synced(self) -> None:
        self._wake.set()

    def ended(self, error: DiscoveryError | None) -> None:
        self.closed = True
        self._callbacks.clear()
        if error is not None:
            self._error = error
            _log.error(
                "the view of %s no longer changes: %s",
                self._query,
                error,
                extra=log.fields("view_ended", query=self._query, error=error),
            )
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something happened. No other task may run between the caller's check and this call.

        Raises ClosedError when the view has ended, or the error that ended it.
        """
        self.check_open()
        self._wake.clear()  # tasks that wait already are woken all the same
        await self._wake.wait()

    def check_open(self) -> None:
        """Raise the error that ended the view, or ClosedError, if it has ended."""
        if self._error is not None:
            raise self._error
        if self.closed:
            raise ClosedError(f"the view of {self._query} was closed")

    def subscribe(self, callback: Callable[[Event], object], *, replay: bool) -> Callable[[], None]:
        """Call `callback` with every later event; return a function that ends that.

        With `replay`, call it first with each present instance as Added. Nothing can change in between.
        """
        for instance in self._choice.picture.instances if replay else ():
            self._call(callback, Added(instance))
        number = next(self._numbers)
        self._callbacks[number] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(number, None)

        return unsubscribe

    def _call(self, callback: Callable[[Event], object], event: Event) -> None:
        try:
            callback(event)
        except Exception:
            self._stats.task_failures += 1
            if self._failures.allow(self._query):
                _log.exception(
                    "a callback of the view of %s failed",
                    self._query,
                    extra=log.fields("callback_failed", query=self._query),
                )
