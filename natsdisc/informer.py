"""Keeps the cache of a query in step with its bucket, and tells the watches and views that follow.

No task runs here: the store's reader calls the informer, and so do timers. Nothing that a follower does may
end either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from . import log
from .cache import Cache
from .changes import Change
from .clock import Clock, Timer
from .errors import DiscoveryError
from .model import Instance, Query, RemovalReason
from .notices import Notices
from .picture import Picture
from .stats import Counters
from .store import Reader, ResyncReason, Sink
from .where import Matching

__all__ = ["Follower", "Informer"]

_log = log.logger(__name__)


class Follower(Protocol):
    """A watch or a view that an informer tells of changes. Every method is quick."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Hear of changes, which the picture shows already."""

    def left(self, key: str) -> None:
        """Hear that an owner unregistered `key`, which the picture does not show any more."""

    def synced(self) -> None:
        """Hear that the first picture is complete."""

    def ended(self, error: DiscoveryError | None) -> None:
        """Hear that nothing more follows: because of `error`, or of a close."""


class Informer:
    """Follows one query for any number of followers, with one reader of the store.

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
        """`grace` and `patience` are the cache's, in seconds.

        `forged` and `stale` limit the log lines of all informers together.
        """
        self._query = query
        self._new_cache = partial(Cache, decode, grace=grace, patience=patience)
        self._cache = self._new_cache()
        self._forged_notices, self._stale_notices = forged, stale
        self._open_reader = open_reader
        self._clock = clock
        self._stats = stats
        self._reader: Reader | None = None
        self._timer: Timer | None = None
        self._timer_due = 0.0
        # Made anew by each change, so that a callback may open or close another follower.
        self._followers: tuple[tuple[Follower, Matching | None], ...] = ()
        self._stale_since: float | None = None
        self._is_stale_logged = False
        self._trouble: DiscoveryError | None = None
        self._last_confirmed = clock.time()
        self.error: DiscoveryError | None = None

    @property
    def picture(self) -> Picture:
        """The instances that are believed to be there; read only."""
        return self._cache.picture

    @property
    def age(self) -> float:
        """Seconds since the server last confirmed the picture."""
        if self._reader is not None:
            return self._reader.age
        return self._clock.time() - self._last_confirmed

    @property
    def trouble(self) -> DiscoveryError | None:
        """The reason why the picture is not in step with the store at the moment; None while it is."""
        return self.error or self._trouble

    @property
    def is_open(self) -> bool:
        """Whether anything follows."""
        return bool(self._followers)

    def follow(self, follower: Follower, matching: Matching | None = None) -> None:
        """Tell `follower` of every change from now on, or of those of the `matching` instances only."""
        self._followers += ((follower, matching),)
        if self._reader is None and self.error is None:
            self._reader = self._open_reader(self)

    async def leave(self, follower: Follower) -> None:
        """Tell `follower` no more; close the reader when it was the last one."""
        self._followers = tuple(pair for pair in self._followers if pair[0] is not follower)
        if not self._followers:
            await self.aclose()

    async def aclose(self) -> None:
        """End quietly for every follower, and let go of the picture."""
        followers, self._followers = self._followers, ()
        for follower, _ in followers:
            self._guard(follower.ended, None)
        # A view that has ended keeps the picture that it shows. An informer that is still referred to does
        # not.
        self._cache = self._new_cache()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._last_confirmed = self._clock.time() - reader.age
            await reader.aclose()

    # The sink: the store's reader calls these.

    def recover(self) -> None:
        self._cache.recover(self._clock.time())

    def begin(self) -> None:
        self._cache.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._tell(self._cache.put(entries, self._clock.time()))
        self._schedule()

    def delete(self, key: str, reason: RemovalReason) -> None:
        is_gone = key not in self.picture.live
        if is_gone and reason is RemovalReason.UNREGISTERED:
            for follower, _ in self._followers:
                self._guard(follower.left, key)
        self._tell(self._cache.delete(key, reason, self._clock.time()))
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
        self._cache.keep(key, self._clock.time())
        self._schedule()

    def end(self) -> None:
        first = not self.picture.synced
        self._cache.end(self._clock.time())
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
            for _, matching in self._followers:
                if matching is not None:
                    matching.picture.synced = True
            for follower, _ in self._followers:
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
        for follower, _ in self._followers:
            self._guard(follower.ended, error)

    def _tell(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        # All pictures first: a callback of one follower may look at the view of another.
        told = [
            (follower, changes if matching is None else matching.narrow(changes))
            for follower, matching in self._followers
        ]
        for follower, mine in told:
            if mine:
                self._guard(follower.changed, mine)

    def _guard(self, tell: Callable[..., None], *news: object) -> None:
        """Call a method of a follower. An exception must not keep the news from others, or end the reader."""
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
        """Set a timer for the next removal that falls due, unless one is set that rings in time."""
        due = self._cache.due
        if self._timer is not None:
            if due is not None and due >= self._timer_due:
                return  # it rings in time, and is then set anew
            self._timer.cancel()
            self._timer = None
        if due is not None and self.is_open:
            self._timer, self._timer_due = self._clock.call_at(due, self._advance), due

    def _advance(self) -> None:
        self._timer = None
        self._tell(self._cache.advance(self._clock.time()))
        self._schedule()
