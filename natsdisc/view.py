"""The live local picture of a query: read it like a collection, pick from it, wait for it."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from . import keys, log
from .aside import Asides
from .balance import Balance, Rendezvous, RoundRobin, for_view, is_draining
from .callbacks import check_callback, plain
from .clock import Clock
from .errors import ClosedError, DiscoveryError, NoInstanceError
from .fold import Change
from .model import (
    EndpointInstance,
    Event,
    Instance,
    InstanceId,
    Query,
    Transport,
    sort_key,
)
from .notices import Notices
from .order import Order, without
from .stats import Counters
from .watch import Feed, Follower

__all__ = ["Selection", "View"]

_log = log.logger(__name__)
_T = TypeVar("_T")
_Instance = TypeVar("_Instance", bound=Instance, covariant=True)


class View(Generic[_Instance]):
    """A picture that follows the registry.

    Reads are plain attribute reads: no await and no I/O. While the server cannot be reached it shows the last
    picture, never an empty one, and `age` grows. Entering it with `async with` waits for the first picture;
    leaving it, `aclose` and `Discovery.close` end it. Other threads may read it; what is awaited raises
    WrongLoopError outside of the Discovery's event loop.
    """

    def __init__(
        self,
        query: Query,
        feed: Feed,
        release: Callable[[Feed, Follower], None],
        check_loop: Callable[[], None],
        balance: Balance | None,
        clock: Clock,
        failures: Notices,
        stats: Counters,
    ) -> None:
        self._query = query
        self._feed = feed
        self._picture = feed.picture
        self._closed_at: tuple[float, float] | None = None
        self._clock = clock
        self._check_loop = check_loop
        self._balance: Balance = for_view(balance) if balance is not None else RoundRobin()
        self._rendezvous = Rendezvous()
        self._state = _State(query, Asides(clock), failures, stats)
        self._order = Order()
        self._choice: tuple[Any, ...] = ()
        self._choice_version = (-1, -1)
        feed.follow(self._state)
        if feed.error is not None:
            self._state.ended(feed.error)
        elif feed.picture.synced:
            self._state.synced()
        # A view that is dropped without a word must not keep the server delivering.
        self._finalizer = weakref.finalize(self, release, feed, self._state)
        self._finalizer.atexit = False

    @property
    def instances(self) -> tuple[_Instance, ...]:
        """The instances that are there, sorted by id."""
        self._order.follow(self._picture)
        shown: tuple[Any, ...] = self._order.instances
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
            return self._feed.age
        closed, age = self._closed_at
        return self._clock.time() - closed + age

    def __len__(self) -> int:
        return len(self._picture)

    def __iter__(self) -> Iterator[_Instance]:
        return iter(self.instances)

    def __contains__(self, item: object) -> bool:
        id = item.id if isinstance(item, Instance) else item
        return isinstance(id, InstanceId) and self.get(id) is not None

    def get(self, id: InstanceId) -> _Instance | None:
        """The instance with this id, if it is there."""
        found = self._picture.find(keys.key_of(id)) if self._query.matches(id) else None
        return cast("_Instance | None", found)

    def pick(self, key: str | bytes | None = None) -> _Instance:
        """Return one instance, by this view's balance, or always the same one for a `key`.

        Those that drain, or that were reported, are left out while there are others.
        Raises NoInstanceError, which says what the view shows.
        """
        choice = self._candidates()
        try:
            return self._balance.pick(choice) if key is None else self._rendezvous.pick(choice, key)
        except NoInstanceError as error:
            raise NoInstanceError(f"no instance to pick from {self._described()}") from error

    @asynccontextmanager
    async def using(
        self, key: str | bytes | None = None, *, timeout: float | None = 0.0
    ) -> AsyncIterator[_Instance]:
        """Pick an instance and count it as busy meanwhile.

        Waits up to `timeout` seconds until there is one (None: without end). Raises NoInstanceError,
        WrongLoopError; while it waits also ClosedError, and what broke the view for good.
        """
        self._check_loop()
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
        failed = self.get(id)
        if failed is not None:
            self._state.asides.report(sort_key(failed))

    async def wait_for(self, n: int, timeout: float | None = None) -> None:
        """Wait until the first picture is complete and at least `n` instances are there, in whatever state.

        Raises TimeoutError after `timeout` seconds, which says what the view shows; ClosedError,
        WrongLoopError, and what broke the view for good.
        """
        self._check_loop()
        try:
            async with asyncio.timeout(timeout):
                while not self.synced or len(self) < n:
                    await self._state.wait()
        except TimeoutError:
            raise TimeoutError(
                f"waited {timeout or 0:g} s for {n} or more of {self._described()}"
            ) from self._feed.trouble

    async def changed(self, since: int | None = None) -> int:
        """Wait for the next change, or for one after the version `since`; returns the `version` then.

        A caller that passes the version it got last misses nothing that happened in between.
        Raises ClosedError, WrongLoopError, and what broke the view for good.
        """
        self._check_loop()
        seen = self.version if since is None else since
        while self.version == seen:
            await self._state.wait()
        return self.version

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with every later event, after the view has changed.

        Returns a function that unsubscribes. An exception of the callback is logged and counted, and breaks
        nothing. The callback must be a plain function: an async one is refused.
        Raises InvalidValueError, ClosedError when the view has ended, and what broke the view for good.

        Example: `unsubscribe = view.subscribe(queue.put_nowait)`
        """
        check_callback("the callback of a view", callback)
        self._state.check_open()
        return self._state.subscribe(plain(callback))

    def select(self, function: Callable[[_Instance], _T]) -> Selection[_T]:
        """A mapping from each id to what `function` makes of its instance; it follows the view."""
        return Selection(self, function)

    async def aclose(self) -> None:
        """End the view, which then stays as it is. Raises WrongLoopError."""
        self._check_loop()
        if self._closed_at is None:
            self._closed_at = (self._clock.time(), self._feed.age)
            self._picture = self._picture.copy()  # others may go on with the same feed
        self._finalizer.detach()
        self._state.ended(None)
        await self._feed.leave(self._state)

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
        there = self.instances
        parts = [f"{len(there)} instance{'' if len(there) == 1 else 's'}"]
        self._state.asides.bring_back()
        out = self._state.asides.out
        draining = sum(is_draining(one) for one in there if sort_key(one) not in out)
        if there and draining + len(out) >= len(there):
            parts.append("all set aside or draining")
        else:
            parts += [f"{draining} draining"] if draining else []
            parts += [f"{len(out)} set aside"] if out else []
        trouble = self._feed.trouble
        if trouble is not None:
            parts.append(f"not up to date for {self.age:.1f} s: {trouble}")
        elif self._state.closed:
            parts.append("the view was closed")
        else:
            parts.append("in sync" if self.synced else "the first picture is not complete")
        return f"{self._query}: {', '.join(parts)}"

    def _candidates(self) -> tuple[_Instance, ...]:
        picture, asides = self._picture, self._state.asides
        asides.bring_back()
        version = (picture.version, asides.version)
        if version != self._choice_version:
            self._order.follow(picture)
            everybody, out = self._order.instances, asides.out
            self._choice = (
                without(everybody, self._order.draining | out) or without(everybody, out) or everybody
            )
            self._choice_version = version
        return self._choice

    async def _pick_within(self, seconds: float | None, key: str | bytes | None) -> _Instance:
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
                    await self._state.wait()
        except TimeoutError:
            return self.pick(key)


class Selection(Mapping[InstanceId, _T], Generic[_T]):
    """A value of each instance, worked out once for each version of it."""

    def __init__(self, view: View[Any], function: Callable[[Any], _T]) -> None:
        self._view = view
        self._function = function
        self._values: dict[InstanceId, tuple[Instance, _T]] = {}

    def __getitem__(self, id: InstanceId) -> _T:
        instance = self._view.get(id)
        if instance is None:
            self._values.pop(id, None)
            raise KeyError(id)
        self._forget_gone()
        known = self._values.get(id)
        if known is None or known[0] is not instance:
            known = self._values[id] = (instance, self._function(instance))
        return known[1]

    def __iter__(self) -> Iterator[InstanceId]:
        self._forget_gone()
        # A caller that awaits on the way may find that some are gone.
        return (instance.id for instance in self._view.instances if instance in self._view)

    def __len__(self) -> int:
        return len(self._view)

    def _forget_gone(self) -> None:
        if len(self._values) > len(self._view):
            self._values = {id: known for id, known in self._values.items() if id in self._view}


class _State:
    """The follower behind a View: who waits, who listens, and who is set aside."""

    def __init__(self, query: Query, asides: Asides, failures: Notices, stats: Counters) -> None:
        self._query = query
        self._wake = asyncio.Event()
        self._callbacks: dict[int, Callable[[Event], object]] = {}
        self._numbers = itertools.count()
        self._error: DiscoveryError | None = None
        self._failures = failures
        self._stats = stats
        self.closed = False
        self.asides = asides

    def changed(self, changes: Sequence[Change]) -> None:
        self._wake.set()
        # All of them first: a callback may pick.
        for change in changes if self.asides else ():
            self._note(change)
        for change in changes if self._callbacks else ():
            self._tell(change.event)

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
        """Until something happened. Between its check and this no other task may run."""
        self.check_open()
        self._wake.clear()  # those who wait already are woken all the same
        await self._wake.wait()

    def check_open(self) -> None:
        """Raise what ended the view, if it has ended."""
        if self._error is not None:
            raise self._error
        if self.closed:
            raise ClosedError(f"the view of {self._query} was closed")

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        number = next(self._numbers)
        self._callbacks[number] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(number, None)

        return unsubscribe

    def _note(self, change: Change) -> None:
        before, after = change.before, change.after
        # Gone, or at another place than that which failed; any other update says nothing about it.
        if before is not None and (after is None or _transport(before) != _transport(after)):
            self.asides.forget(sort_key(before))

    def _tell(self, event: Event) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback(event)
            except Exception:
                self._stats.task_failures += 1
                if not self._failures.allow(self._query):
                    continue
                _log.exception(
                    "a callback of the view of %s failed",
                    self._query,
                    extra=log.fields("callback_failed", query=self._query),
                )


def _transport(instance: Instance) -> Transport | None:
    return instance.transport if isinstance(instance, EndpointInstance) else None
