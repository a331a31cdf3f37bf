"""The live local picture of a query: read it like a collection, pick from it, wait for it."""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from . import keys, log
from .balance import Balance, Rendezvous, RoundRobin, is_draining
from .clock import Clock
from .errors import ClosedError, DiscoveryError
from .fold import Change
from .model import (
    Added,
    EndpointInstance,
    EndpointInstanceId,
    Event,
    Instance,
    InstanceId,
    ModelCardInstanceId,
    ModelInstance,
    Query,
    sort_key,
)
from .watch import Feed, Follower

__all__ = ["Selection", "View"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# A reported instance is set aside this long (seconds), twice as long each time it fails again, to a limit.
_FIRST_REST, _LONGEST_REST = 0.5, 30.0
_MOST_DOUBLINGS = 6


class View:
    """A picture that follows the registry.

    Reads are plain attribute reads: no await and no I/O. While the server cannot be reached it shows the last
    picture, never an empty one, and `age` grows. Entering it with `async with` waits for the first picture;
    leaving it, `aclose` and `Discovery.close` end it.
    """

    def __init__(
        self,
        query: Query,
        feed: Feed,
        release: Callable[[Feed, Follower], None],
        balance: Balance | None,
        clock: Clock,
    ) -> None:
        self._query = query
        self._feed = feed
        self._picture = feed.picture
        self._closed_at: tuple[float, float] | None = None
        self._clock = clock
        self._balance: Balance = balance if balance is not None else RoundRobin()
        self._rendezvous = Rendezvous()
        self._state = _State(query, clock)
        self._sorted: tuple[Instance, ...] = ()
        self._sorted_version = -1
        self._choice: tuple[Instance, ...] = ()
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
    def instances(self) -> tuple[Instance, ...]:
        """What is there, sorted by id."""
        picture = self._picture
        if self._sorted_version != picture.version:
            self._sorted = tuple(sorted(picture.instances, key=sort_key))
            self._sorted_version = picture.version
        return self._sorted

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

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)

    def __contains__(self, item: object) -> bool:
        id = item.id if isinstance(item, (EndpointInstance, ModelInstance)) else item
        return isinstance(id, (EndpointInstanceId, ModelCardInstanceId)) and self.get(id) is not None

    def get(self, id: InstanceId) -> Instance | None:
        """The instance with this id, if it is there."""
        return self._picture.find(keys.key_of(id)) if self._query.matches(id) else None

    def pick(self, key: str | bytes | None = None) -> Instance:
        """One instance, by this view's balance, or always the same one for a `key`.

        Those that drain, or that were reported, are left out while there are others.
        Raises NoInstanceError.
        """
        choice = self._candidates()
        return self._balance.pick(choice) if key is None else self._rendezvous.pick(choice, key)

    @asynccontextmanager
    async def using(self, key: str | bytes | None = None, *, timeout: float = 0.0) -> AsyncIterator[Instance]:
        """Pick an instance and count it as busy meanwhile; wait up to `timeout` seconds for one.

        Raises NoInstanceError.
        """
        if timeout > 0 and not len(self):
            with suppress(TimeoutError):  # and then there is none to pick
                await self.wait_for(1, timeout=timeout)
        instance = self.pick(key)
        self._balance.started(instance.id)
        try:
            yield instance
        finally:
            self._balance.finished(instance.id)

    def report_failure(self, id: InstanceId) -> None:
        """Set an instance aside for a while, longer each time; it is back at once when it registers anew."""
        if self.get(id) is not None:
            self._state.set_aside(id)

    async def wait_for(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least `n` instances are there.

        Raises TimeoutError after `timeout` seconds, ClosedError, and what broke the view for good.
        """
        async with asyncio.timeout(timeout):
            while not self.synced or len(self) < n:
                await self._state.wait()

    async def changed(self) -> None:
        """Wait for the next change. Raises ClosedError, and what broke the view for good."""
        version = self._picture.version
        while self._picture.version == version:
            await self._state.wait()

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with every later event, after the view has changed; the answer takes it back.

        What it raises is logged and breaks nothing.
        """
        return self._state.subscribe(callback)

    def select(self, function: Callable[[Instance], _T]) -> Selection[_T]:
        """A mapping from each id to what `function` makes of its instance; it follows the view."""
        return Selection(self, function)

    async def aclose(self) -> None:
        """End the view, which then stays as it is."""
        if self._closed_at is None:
            self._closed_at = (self._clock.time(), self._feed.age)
            self._picture = self._picture.copy()  # others may go on with the same feed
        self._finalizer.detach()
        self._state.ended(None)
        await self._feed.leave(self._state)

    async def __aenter__(self) -> Self:
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

    def _candidates(self) -> tuple[Instance, ...]:
        version = (self._picture.version, self._state.asides_version())
        if version != self._choice_version:
            serving = self.instances
            if self._state.has_asides:
                serving = tuple(one for one in serving if not self._state.is_aside(one.id))
            fresh = tuple(instance for instance in serving if not is_draining(instance))
            self._choice = fresh or serving or self.instances
            self._choice_version = version
        return self._choice


class Selection(Mapping[InstanceId, _T], Generic[_T]):
    """A value of each instance, worked out once for each version of it."""

    def __init__(self, view: View, function: Callable[[Instance], _T]) -> None:
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
        return iter([instance.id for instance in self._view.instances])

    def __len__(self) -> int:
        return len(self._view)

    def _forget_gone(self) -> None:
        if len(self._values) > len(self._view):
            self._values = {id: known for id, known in self._values.items() if id in self._view}


class _State:
    """The follower behind a View: who waits, who listens, and who is set aside."""

    def __init__(self, query: Query, clock: Clock) -> None:
        self._query = query
        self._clock = clock
        self._wake = asyncio.Event()
        self._callbacks: dict[int, Callable[[Event], object]] = {}
        self._numbers = iter(range(2**62))
        # id to (until, how often in a row)
        self._aside: dict[InstanceId, tuple[float, int]] = {}
        self._asides_version = 0
        self._next_back: float | None = None
        self._error: DiscoveryError | None = None
        self._closed = False

    def changed(self, changes: Sequence[Change]) -> None:
        self._wake.set()
        if not self._aside and not self._callbacks:
            return
        for change in changes:
            self._note(change)

    def _note(self, change: Change) -> None:
        event = change.event
        id = event.instance.id if isinstance(event, Added) else event.id
        # Registered anew, or gone; an update says nothing about what failed.
        if (change.before is None or change.after is None) and self._aside.pop(id, None) is not None:
            self._note_asides()
        for callback in list(self._callbacks.values()):
            try:
                callback(event)
            except Exception:
                _log.exception(
                    "a callback of the view of %s failed",
                    self._query,
                    extra=log.fields("callback_failed", query=self._query),
                )

    def synced(self) -> None:
        self._wake.set()

    def ended(self, error: DiscoveryError | None) -> None:
        self._closed = True
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
        """Until something happened."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise ClosedError("the view was closed")
        self._wake.clear()
        await self._wake.wait()

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        number = next(self._numbers)
        self._callbacks[number] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(number, None)

        return unsubscribe

    def set_aside(self, id: InstanceId) -> None:
        now = self._clock.time()
        until, failures = self._aside.get(id, (0.0, 0))
        if until > now:
            return  # requests that failed together are one failure
        if now > until + _LONGEST_REST:
            failures = 0  # it has served well since
        rest = min(_FIRST_REST * 2 ** min(failures, _MOST_DOUBLINGS), _LONGEST_REST)
        self._aside[id] = (now + rest * random.uniform(0.5, 1.0), failures + 1)  # noqa: S311 (spreads load)
        self._note_asides()

    @property
    def has_asides(self) -> bool:
        """Whether anybody is set aside now."""
        return self._next_back is not None

    def is_aside(self, id: InstanceId) -> bool:
        until, _ = self._aside.get(id, (0.0, 0))
        return until > self._clock.time()

    def asides_version(self) -> int:
        """Grows whenever an instance was set aside, or is back."""
        if self._next_back is not None and self._clock.time() >= self._next_back:
            self._note_asides()
        return self._asides_version

    def _note_asides(self) -> None:
        self._asides_version += 1
        now = self._clock.time()
        self._next_back = min((until for until, _ in self._aside.values() if until > now), default=None)
