"""A running query: one feed from the store, and the watches that are read from it.

No task runs here: the store's reader calls the feed, and so do timers. Neither may be ended by what a
follower does.
"""

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
from .notices import Notices
from .stats import Counters
from .store import Reader, ResyncReason, Sink

__all__ = ["Feed", "Follower", "Watch"]

_log = log.logger(__name__)

# A reader with a large backlog never waits: after so many events others may use the loop.
_TURN = 500


class Follower(Protocol):
    """A reader of a feed's changes. Every method is quick and never raises."""

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
        patience: float,
        stats: Counters,
        forged: Notices,
        stale: Notices,
    ) -> None:
        """`grace` and `patience` are the Fold's.

        `forged` and `stale` limit the log lines of all feeds together.
        """
        self._query = query
        self._decode, self._grace, self._patience = decode, grace, patience
        self._fold = self._new_fold()
        self._forged_notices, self._stale_notices = forged, stale
        self._open_reader = open_reader
        self._clock = clock
        self._stats = stats
        self._reader: Reader | None = None
        self._timer: Timer | None = None
        self._timer_due = 0.0
        # Made anew by each change, so that a callback may open or close another follower.
        self._followers: tuple[Follower, ...] = ()
        self._stale_since: float | None = None
        self._is_stale_logged = False
        self._trouble: DiscoveryError | None = None
        self._last_confirmed = clock.time()
        self.error: DiscoveryError | None = None

    def _new_fold(self) -> Fold:
        return Fold(self._decode, grace=self._grace, patience=self._patience)

    @property
    def picture(self) -> Fold:
        """The instances that are believed to be there; read only."""
        return self._fold

    @property
    def age(self) -> float:
        """Seconds since the server last confirmed the picture."""
        if self._reader is not None:
            return self._reader.age
        return self._clock.time() - self._last_confirmed

    @property
    def trouble(self) -> DiscoveryError | None:
        """Why the picture is not in step with the store at the moment; None while it is."""
        return self.error or self._trouble

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
        """End quietly for every follower, and let go of the picture."""
        followers, self._followers = self._followers, ()
        for follower in followers:
            self._guard(follower.ended, None)
        # A view that has ended keeps the picture that it shows; a feed that somebody still refers to does
        # not.
        self._fold = self._new_fold()
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

    def recover(self) -> None:
        self._fold.recover(self._clock.time())

    def begin(self) -> None:
        self._fold.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._tell(self._fold.put(entries, self._clock.time()))
        self._schedule()

    def delete(self, key: str, reason: RemovalReason) -> None:
        self._tell(self._fold.delete(key, reason, self._clock.time()))
        self._schedule()

    def keep(self, key: str) -> None:
        self._stats.forged += 1
        if self._forged_notices.allow(f"{key} of the {self._query.kind}s"):
            _log.warning(
                "a forged message under %s in %s is ignored",
                key,
                self._query,
                extra=log.fields("forged", key=key, query=self._query),
            )
        self._fold.keep(key, self._clock.time())
        self._schedule()

    def end(self) -> None:
        first = not self._fold.synced
        self._fold.end(self._clock.time())
        self._schedule()
        self._trouble = None
        if self._stale_since is not None:
            stale_for = self._clock.time() - self._stale_since
            if self._is_stale_logged:
                _log.info(
                    "%s is in sync again after %.1f s",
                    self._query,
                    stale_for,
                    extra=log.fields("in_sync", query=self._query, seconds=stale_for),
                )
            self._stale_since = None
        if first:
            for follower in self._followers:
                self._guard(follower.synced)

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._stats.resyncs[reason] += 1
        self._trouble = error
        if self._stale_since is None:
            self._stale_since = self._clock.time()
            # Of hundreds of queries all are stale when the server goes.
            self._is_stale_logged = self._stale_notices.allow(self._query)
            if self._is_stale_logged:
                _log.warning(
                    "%s is stale: %s",
                    self._query,
                    error,
                    extra=log.fields("stale", query=self._query, reason=reason, error=error),
                )

    def fail(self, error: DiscoveryError) -> None:
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for follower in self._followers:
            self._guard(follower.ended, error)

    def _tell(self, changes: Sequence[Change]) -> None:
        if changes:
            for follower in self._followers:
                self._guard(follower.changed, changes)

    def _guard(self, tell: Callable[..., None], *news: object) -> None:
        """Call a method of a follower.

        What it raises must not keep the news from the others, or end the reader.
        """
        try:
            tell(*news)
        except Exception as bug:
            self._stats.task_failures += 1
            _log.exception(
                "a follower of %s failed; the others go on",
                self._query,
                extra=log.fields("follower_failed", query=self._query, error=bug),
            )

    def _schedule(self) -> None:
        """See to it that a timer is set for the next removal that falls due."""
        due = self._fold.due
        if self._timer is not None:
            if due is not None and due >= self._timer_due:
                return  # it rings in time, and is then set anew
            self._timer.cancel()
            self._timer = None
        if due is not None and self.is_open:
            self._timer, self._timer_due = self._clock.call_at(due, self._advance), due

    def _advance(self) -> None:
        self._timer = None
        self._tell(self._fold.advance(self._clock.time()))
        self._schedule()


class Watch:
    """The events of a query, as an async iterator and an async context manager.

    It starts with the first use. A failure that cannot be repaired raises out of the iterator, and again at
    every further use; only `aclose` and `Discovery.close` end it quietly. Cancelling a read loses no event.
    Every use raises WrongLoopError outside of the Discovery's event loop.
    """

    def __init__(
        self,
        join: Callable[[], Feed],
        release: Callable[[Feed, Follower], None],
        check_loop: Callable[[], None],
        stats: Counters,
    ) -> None:
        self._join = join
        self._release = release
        self._check_loop = check_loop
        self._inbox = _Inbox(stats)
        self._feed: Feed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[..., Watch] | None = None

    def _start(self) -> None:
        self._check_loop()
        if self._feed is not None or self._inbox.closed:
            return
        feed = self._join()
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._inbox.start(feed)
        # A reader that is dropped without a word must not keep the server delivering.
        self._finalizer = weakref.finalize(self, self._release, feed, self._inbox)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """The next event; raises StopAsyncIteration once closed, and what broke the watch for good."""
        # A check for each event must cost little.
        if self._loop is None or asyncio._get_running_loop() is not self._loop:
            self._start()
        # The coroutine refers to this watch, which would otherwise be collected, and closed, while somebody
        # waits.
        return self._inbox.next(self)

    async def synced(self) -> None:
        """Wait until every instance that was there is reported; raises what broke the watch, ClosedError."""
        self._start()
        await self._inbox.wait_synced()

    async def aclose(self) -> None:
        """End the watch and free its consumer on the server."""
        self._check_loop()
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
        if self._error is None:
            self._backlog = Backlog()  # nobody reads it any more
        self._wake.set()

    async def next(self, _watch: Watch) -> Event:
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
