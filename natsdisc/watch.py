"""A running query: one feed from the store, and the watches that are read from it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from . import log
from .clock import Clock, Timer
from .errors import ClosedError, DiscoveryError
from .fold import Backlog, Change, Fold
from .model import Event, Instance, Query, RemovalReason
from .stats import Counters
from .store import Doubt, Reader, Sink

__all__ = ["Feed", "Follower", "Watch"]

_log = log.logger(__name__)

# A reader with a large backlog never waits: after so many events others may use the loop.
_TURN = 500


class Follower(Protocol):
    """Who hears of a feed's changes. Every method is quick and never raises."""

    def changed(self, changes: Sequence[Change]) -> None: ...

    def synced(self) -> None: ...

    def ended(self, error: DiscoveryError | None) -> None: ...


class Feed:
    """The picture of one query, kept by one reader of the store, for any number of followers.

    It is the store's `Sink`. It opens with the first follower and closes with the last.
    """

    def __init__(
        self,
        query: Query,
        decode: Callable[[str, bytes], Instance],
        open_reader: Callable[[Sink], Reader],
        *,
        clock: Clock,
        grace: float,
        stats: Counters,
    ) -> None:
        self._query = query
        self._fold = Fold(decode, grace=grace)
        self._open_reader = open_reader
        self._clock = clock
        self._stats = stats
        self._reader: Reader | None = None
        self._timer: Timer | None = None
        # Made anew by each change, so that a callback may open or close another follower.
        self._followers: tuple[Follower, ...] = ()
        self._stale_since: float | None = None
        self._last_confirmed = clock.time()
        self.error: DiscoveryError | None = None

    @property
    def picture(self) -> Fold:
        """What is believed to be there; read only."""
        return self._fold

    @property
    def age(self) -> float:
        """Seconds since the server last confirmed the picture."""
        if self._reader is not None:
            return self._reader.age
        return self._clock.time() - self._last_confirmed

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of every change from now on."""
        self._followers += (follower,)
        if self._reader is None and self.error is None:
            self._reader = self._open_reader(self)

    async def leave(self, follower: Follower) -> None:
        """Tell `follower` no more; without followers the reader is closed."""
        self._followers = tuple(other for other in self._followers if other is not follower)
        if not self._followers:
            await self.aclose()

    async def aclose(self) -> None:
        """End quietly for every follower."""
        for follower in self._followers:
            follower.ended(None)
        self._followers = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._last_confirmed = self._clock.time() - reader.age
            await reader.aclose()

    @property
    def is_open(self) -> bool:
        """Whether anybody follows."""
        return bool(self._followers)

    # The sink: the store's reader calls these.

    def begin(self) -> None:
        self._fold.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._tell(self._fold.put(entries, self._clock.time()))
        if self._timer is None:
            self._schedule()

    def delete(self, key: str, reason: RemovalReason) -> None:
        self._tell(self._fold.delete(key, reason, self._clock.time()))
        if self._timer is None:
            self._schedule()

    def keep(self, key: str) -> None:
        self._stats.forged += 1
        _log.warning(
            "a forged message under %s in %s is ignored",
            key,
            self._query,
            extra=log.fields("forged", key=key, query=self._query),
        )
        self._fold.keep(key)

    def end(self) -> None:
        first = not self._fold.synced
        self._fold.end(self._clock.time())
        self._schedule()
        if self._stale_since is not None:
            stale_for = self._clock.time() - self._stale_since
            _log.info(
                "%s is in sync again after %.1f s",
                self._query,
                stale_for,
                extra=log.fields("in_sync", query=self._query, seconds=stale_for),
            )
            self._stale_since = None
        if first:
            for follower in self._followers:
                follower.synced()

    def stale(self, doubt: Doubt, error: DiscoveryError) -> None:
        self._stats.resyncs[doubt] += 1
        if self._stale_since is None:
            self._stale_since = self._clock.time()
            _log.warning(
                "%s is stale: %s",
                self._query,
                error,
                extra=log.fields("stale", query=self._query, doubt=doubt, error=error),
            )

    def fail(self, error: DiscoveryError) -> None:
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for follower in self._followers:
            follower.ended(error)

    def _tell(self, changes: Sequence[Change]) -> None:
        if changes:
            for follower in self._followers:
                follower.changed(changes)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._fold.due
        if due is not None and self.is_open:
            self._timer = self._clock.call_at(due, self._advance)

    def _advance(self) -> None:
        self._timer = None
        self._tell(self._fold.advance(self._clock.time()))
        self._schedule()


class Watch:
    """The events of a query, as an async iterator and an async context manager.

    It starts with the first use. A failure that cannot be repaired raises out of the iterator, and again at
    every further use; only `aclose` and `Discovery.close` end it quietly. Cancelling a read loses no event.
    """

    def __init__(
        self, join: Callable[[], Feed], release: Callable[[Feed, Follower], None], stats: Counters
    ) -> None:
        self._join = join
        self._release = release
        self._inbox = _Inbox(stats)
        self._feed: Feed | None = None
        self._finalizer: weakref.finalize[..., Watch] | None = None

    def _start(self) -> None:
        if self._feed is not None or self._inbox.closed:
            return
        feed = self._join()
        self._feed = feed
        self._inbox.start(feed)
        # A reader that is dropped without a word must not keep the server delivering.
        self._finalizer = weakref.finalize(self, self._release, feed, self._inbox)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """The next event; raises StopAsyncIteration once closed, and what broke the watch for good."""
        if self._feed is None:
            self._start()
        return self._inbox.next()

    async def synced(self) -> None:
        """Wait until every instance that was there is reported; raises what broke the watch, ClosedError."""
        self._start()
        await self._inbox.wait_synced()

    async def aclose(self) -> None:
        """End the watch and free its consumer on the server."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._inbox.ended(None)
        if self._feed is not None:
            await self._feed.leave(self._inbox)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Inbox:
    """The follower behind a Watch. It outlives a dropped Watch until it is released."""

    def __init__(self, stats: Counters) -> None:
        self._stats = stats
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._taken = 0
        self._is_synced = False
        self._error: DiscoveryError | None = None
        self.closed = False

    def start(self, feed: Feed) -> None:
        self._backlog = Backlog(feed.picture.live)
        self._is_synced = feed.picture.synced
        if feed.error is not None:
            self.ended(feed.error)
        feed.follow(self)

    def changed(self, changes: Sequence[Change]) -> None:
        self._stats.conflated += self._backlog.push(changes)
        self._wake.set()

    def synced(self) -> None:
        self._is_synced = True
        self._wake.set()

    def ended(self, error: DiscoveryError | None) -> None:
        self.closed = True
        self._error = self._error or error
        self._wake.set()

    async def next(self) -> Event:
        while True:
            if self.closed and self._error is None:
                raise StopAsyncIteration
            if self._backlog:
                self._taken += 1
                if self._taken % _TURN == 0:
                    await asyncio.sleep(0)
                    continue
                self._stats.events += 1
                return self._backlog.pop()
            if self._error is not None:
                raise self._error
            await self._wait()

    async def wait_synced(self) -> None:
        while not self._is_synced:
            if self._error is not None:
                raise self._error
            if self.closed:
                raise ClosedError("the watch was closed before it was in sync")
            await self._wait()

    async def _wait(self) -> None:
        self._wake.clear()
        await self._wake.wait()
