"""The live local picture of a query: read it like a collection, pick from it, wait for it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from . import keys
from .balance import Balance, Rendezvous, RoundRobin, for_view
from .callbacks import check_callback, plain
from .calls import Calls, RetryOn, check_call, failure_test
from .choice import Choice
from .clock import Clock
from .ejection import Ejections
from .errors import NoInstanceError
from .informer import Follower, Informer
from .listeners import Listeners
from .losses import Losses
from .model import (
    Added,
    Instance,
    InstanceId,
    InstanceT_co,
    Query,
    Removed,
)
from .notices import Notices
from .selection import Selection
from .stats import Counters
from .where import Matches, Matching

__all__ = ["View"]

_T = TypeVar("_T")


class View(Generic[InstanceT_co]):
    """A picture that follows the registry.

    Reads are plain attribute reads: no await and no I/O. While the server cannot be reached it shows the last
    picture, never an empty one, and `age` grows. Entering it with `async with` waits for the first picture;
    leaving it, `aclose` and `Discovery.close` end it. Other threads may read it; what is awaited raises
    WrongLoopError outside of the Discovery's event loop.
    """

    def __init__(
        self,
        query: Query,
        informer: Informer,
        release: Callable[[Informer, Follower], None],
        check_loop: Callable[[], None],
        balance: Balance | None,
        clock: Clock,
        failures: Notices,
        stats: Counters,
        losses: Losses,
        matches: Matches | None,
    ) -> None:
        self._query = query
        self._informer = informer
        matching = None if matches is None else Matching(matches, informer.picture)
        self._picture = informer.picture if matching is None else matching.picture
        self._closed_at: tuple[float, float] | None = None
        self._clock = clock
        self._check_loop = check_loop
        self._balance: Balance = for_view(balance) if balance is not None else RoundRobin()
        self._rendezvous = Rendezvous()
        self._choice = Choice(self._picture, Ejections(clock), losses)
        self._calls = Calls(query, self._choice, self._balance, self._rendezvous)
        self._listeners = Listeners(query, self._choice, failures, stats)
        informer.follow(self._listeners, matching)
        if informer.error is not None:
            self._listeners.ended(informer.error)
        # A view that is dropped without a word must not keep the server delivering.
        self._finalizer = weakref.finalize(self, release, informer, self._listeners)
        self._finalizer.atexit = False

    @property
    def instances(self) -> tuple[InstanceT_co, ...]:
        """The instances that are there, sorted by id."""
        shown: tuple[Any, ...] = self._picture.instances
        return shown

    @property
    def version(self) -> int:
        """A number that grows with every change, for `changed`."""
        return self._picture.version

    @property
    def synced(self) -> bool:
        """Whether the first picture is complete."""
        return self._picture.synced

    @property
    def age(self) -> float:
        """Seconds since the server last confirmed the picture: nothing in it is older than that."""
        if self._closed_at is None:
            return self._informer.age
        closed, age = self._closed_at
        return self._clock.time() - closed + age

    @property
    def panicking(self) -> bool:
        """Whether so many instances were lost at once that picks are also among the lost ones."""
        self._choice.candidates()
        return self._choice.losses.panicking

    def __len__(self) -> int:
        return len(self._picture)

    def __iter__(self) -> Iterator[InstanceT_co]:
        return iter(self.instances)

    def __contains__(self, item: object) -> bool:
        id = item.id if isinstance(item, Instance) else item
        return isinstance(id, InstanceId) and self.get(id) is not None

    def get(self, id: InstanceId) -> InstanceT_co | None:
        """The instance with this id, if it is there."""
        found = self._picture.live.get(keys.key_of(id)) if self._query.matches(id) else None
        return cast("InstanceT_co | None", found)

    def pick(self, key: str | bytes | None = None) -> InstanceT_co:
        """Return one instance, by this view's balance, or always the same one for a `key`.

        Serving instances come first, then draining, then unhealthy ones; a disabled one is never picked.
        Those that were reported are left out while there are others. While the view panics, lost instances
        are picked too. Raises NoInstanceError, which says what the view shows.
        """
        candidates: tuple[InstanceT_co, ...] = self._choice.candidates()
        try:
            if key is None:
                return self._balance.pick(candidates)
            return self._rendezvous.pick(candidates, key)
        except NoInstanceError as error:
            raise NoInstanceError(f"no instance to pick from {self._described()}") from error

    async def call(
        self,
        function: Callable[[InstanceT_co], Awaitable[_T]],
        *,
        key: str | bytes | None = None,
        attempts: int = 2,
        timeout: float | None = None,
        retry_on: RetryOn | None = None,
    ) -> _T:
        """Pick an instance, await `function(instance)`, and try another instance if that fails.

        An attempt fails with an error of `retry_on`: an exception type or a tuple of them, by default
        OSError, with it ConnectionError and TimeoutError, and NATS's "no responders". The instance is then
        reported, and not tried again while there is another one. `timeout` is in seconds and for each
        attempt. A request that timed out may have been carried out: without a function that can safely run
        twice, give a narrower `retry_on`. Every other error, and a cancellation, passes at once.

        Returns what `function` returned. Raises the last error as it is, with a note that names the attempts;
        NoInstanceError, InvalidValueError, WrongLoopError.

        Example: `reply = await view.call(lambda one: nc.request(one.transport.address, b"", timeout=1))`
        """
        self._check_loop()
        check_call(function, attempts, timeout)
        is_failure = failure_test(retry_on)
        return await self._calls.call(function, self.pick(key), key, attempts, timeout, is_failure)

    @asynccontextmanager
    async def using(
        self,
        key: str | bytes | None = None,
        *,
        timeout: float | None = 0.0,
        besides: Sequence[Instance] = (),
    ) -> AsyncIterator[InstanceT_co]:
        """Pick an instance and count it as busy meanwhile.

        Waits up to `timeout` seconds until there is one (None: without end). Those in `besides` are
        picked only if there is no other. Raises NoInstanceError, WrongLoopError; while it
        waits also ClosedError, and what broke the view for good.
        """
        self._check_loop()
        instance: InstanceT_co | None = None
        if besides:
            with suppress(NoInstanceError):
                instance = cast(InstanceT_co, self._calls.pick_another(besides, key))
        if instance is None:
            instance = await self._pick_within(timeout, key)
        self._balance.started(instance.id)
        try:
            yield instance
        finally:
            self._balance.finished(instance.id)

    def report_failure(self, id: InstanceId) -> None:
        """Set an instance aside for a while, longer each time; one that is not there is ignored.

        It is back by itself, or at once when it registers anew or has another transport.
        """
        if self._query.matches(id):
            self._choice.report_failure(keys.key_of(id))

    async def wait_for(self, n: int, timeout: float | None = None) -> None:
        """Wait until the first picture is complete and at least `n` instances are there, in whatever state.

        Raises TimeoutError after `timeout` seconds, which says what the view shows; ClosedError,
        WrongLoopError, and what broke the view for good.
        """
        self._check_loop()
        try:
            async with asyncio.timeout(timeout):
                while not self.synced or len(self) < n:
                    await self._listeners.wait()
        except TimeoutError:
            raise TimeoutError(
                f"waited {timeout or 0:g} s for {n} or more of {self._described()}"
            ) from self._informer.trouble

    async def changed(self, since: int | None = None) -> int:
        """Wait for the next change, or for one after the version `since`; returns the `version` then.

        A caller that passes the version it got last misses nothing that happened in between.
        Raises ClosedError, WrongLoopError, and what broke the view for good.
        """
        self._check_loop()
        seen = self.version if since is None else since
        while self.version == seen:
            await self._listeners.wait()
        return self.version

    def subscribe(
        self,
        callback: Callable[[Added[InstanceT_co] | Removed[InstanceT_co]], object],
        replay: bool = False,
    ) -> Callable[[], None]:
        """Call `callback` with every later event, after the view has changed.

        With `replay` it is first called with each present instance as Added, before this returns; nothing is
        missed or doubled in between. Returns a function that unsubscribes. An exception of the callback is
        logged and counted, and breaks nothing. The callback must be a plain function: an async one is
        refused. Raises InvalidValueError, ClosedError when the view has ended, and the error that ended it.

        Example: `unsubscribe = view.subscribe(queue.put_nowait, replay=True)`
        """
        check_callback("the callback of a view", callback)
        self._listeners.check_open()
        return self._listeners.subscribe(plain(callback), replay=replay)

    def select(self, function: Callable[[InstanceT_co], _T]) -> Selection[_T]:
        """A mapping from each id to what `function` makes of its instance; it follows the view."""
        return Selection(self, function)

    async def aclose(self) -> None:
        """End the view, which then stays as it is. Raises WrongLoopError."""
        self._check_loop()
        if self._closed_at is None:
            self._closed_at = (self._clock.time(), self._informer.age)
            # Others may go on with the same informer.
            self._picture = self._choice.picture = self._picture.copy()
        self._finalizer.detach()
        self._listeners.ended(None)
        await self._informer.leave(self._listeners)

    async def __aenter__(self) -> Self:
        self._check_loop()
        try:
            await self.wait_for(0)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<View {self._query} {len(self)} instances>"

    def _described(self) -> str:
        """Return what the view shows, for an error: "endpoints/shop: 3 instances, 1 draining, in sync"."""
        trouble = self._informer.trouble
        if trouble is not None:
            state = f"not up to date for {self.age:.1f} s: {trouble}"
        elif self._listeners.closed:
            state = "the view was closed"
        else:
            state = "in sync" if self.synced else "the first picture is not complete"
        return f"{self._query}: {self._choice.describe()}, {state}"

    async def _pick_within(self, seconds: float | None, key: str | bytes | None) -> InstanceT_co:
        if seconds is not None and seconds <= 0:
            return self.pick(key)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self.synced:
                        try:
                            return self.pick(key)
                        except NoInstanceError:
                            pass
                    await self._listeners.wait()
        except TimeoutError:
            return self.pick(key)
