"""The events of a query, one after the other."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Generic, Self

from .changes import Change, PendingChanges
from .errors import ClosedError, DiscoveryError
from .informer import Follower, Informer
from .model import Added, InstanceT_co, Removed
from .stats import Counters
from .where import Matches, Matching

__all__ = ["EventQueue", "Watch"]

# A reader with many pending changes never waits: after so many events others may use the loop.
_EVENTS_PER_TURN = 500


class Watch(Generic[InstanceT_co]):
    """The events of a query, as an async iterator and an async context manager.

    It starts with the first use. A failure that cannot be repaired raises out of the iterator, and again at
    every further use; only `aclose` and `Discovery.close` end it quietly. Cancelling a read loses no event.
    Every use raises WrongLoopError outside of the Discovery's event loop.
    """

    def __init__(
        self,
        join: Callable[[], Informer],
        release: Callable[[Informer, Follower], None],
        check_loop: Callable[[], None],
        stats: Counters,
        matches: Matches | None = None,
    ) -> None:
        self._join = join
        self._release = release
        self._check_loop = check_loop
        self._queue = EventQueue(stats, matches)
        self._informer: Informer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[..., Watch[Any]] | None = None

    def _start(self) -> None:
        self._check_loop()
        if self._informer is not None or self._queue.closed:
            return
        informer = self._join()
        self._informer = informer
        self._loop = asyncio.get_running_loop()
        self._queue.start(informer)
        # A watch that is dropped without a word must not keep the server delivering.
        self._finalizer = weakref.finalize(self, self._release, informer, self._queue)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Added[InstanceT_co] | Removed[InstanceT_co]]:
        """Return the next event.

        Raises StopAsyncIteration once the watch is closed, and the error that ended it for good.
        """
        # A check for each event must cost little.
        if self._loop is None or asyncio._get_running_loop() is not self._loop:
            self._start()
        # The coroutine refers to this watch, which would otherwise be collected, and closed, while a reader
        # waits.
        return self._queue.next(self)

    async def synced(self) -> None:
        """Wait until every instance that was there is reported.

        Raises ClosedError, and the error that ended the watch for good.
        """
        self._start()
        await self._queue.wait_synced()

    async def aclose(self) -> None:
        """End the watch and free its consumer on the server."""
        self._check_loop()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._queue.ended(None)
        if self._informer is not None:
            await self._informer.leave(self._queue)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class EventQueue:
    """The follower behind a Watch. It outlives a dropped Watch until it is released."""

    def __init__(self, stats: Counters, matches: Matches | None = None) -> None:
        self._stats = stats
        self._matches = matches
        self._pending = PendingChanges()
        self._wake = asyncio.Event()
        self._taken = 0
        self._is_synced = False
        self._error: DiscoveryError | None = None
        self.closed = False

    def start(self, informer: Informer) -> None:
        """Begin with the instances that `informer` knows, and follow it."""
        matching = None if self._matches is None else Matching(self._matches, informer.picture)
        picture = informer.picture if matching is None else matching.picture
        self._pending = PendingChanges(picture.live)
        self._is_synced = picture.synced
        if informer.error is not None:
            self.ended(informer.error)
        informer.follow(self, matching)

    def changed(self, changes: Sequence[Change]) -> None:
        self._stats.conflated += self._pending.push(changes)
        self._wake.set()

    def left(self, key: str) -> None:
        """A removal of what is not shown is no event."""

    def synced(self) -> None:
        self._is_synced = True
        self._wake.set()

    def ended(self, error: DiscoveryError | None) -> None:
        self.closed = True
        self._error = self._error or error
        if self._error is None:
            self._pending = PendingChanges()  # nothing reads it any more
        self._wake.set()

    async def next(self, _watch: Watch[Any]) -> Any:
        """Return the next event as soon as there is one; see `Watch.__anext__`."""
        while True:
            if self.closed and self._error is None:
                raise StopAsyncIteration
            if self._pending:
                self._taken += 1
                if self._taken % _EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
                    continue
                self._stats.events += 1
                return self._pending.pop()
            if self._error is not None:
                raise self._error
            await self._wait()

    async def wait_synced(self) -> None:
        """Wait for the first complete picture; see `Watch.synced`."""
        while not self._is_synced:
            if self._error is not None:
                raise self._error
            if self.closed:
                raise ClosedError("the watch was closed before it was in sync")
            await self._wait()

    async def _wait(self) -> None:
        self._wake.clear()
        await self._wake.wait()
