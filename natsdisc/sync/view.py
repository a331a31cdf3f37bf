"""A view that any thread may read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from .. import discovery as asynchronous
from .. import view as views
from ..callbacks import check_callback
from ..calls import RetryOn
from ..errors import ClosedError
from ..model import Event, Instance, InstanceId, Query
from .calling import call
from .session import Session, Sessions

__all__ = ["View"]

_T = TypeVar("_T")
_Instance = TypeVar("_Instance", bound=Instance, covariant=True)

# Seconds that a view waits for its first picture when a forked child opens it again.
_REOPENING = 10.0


class View(Generic[_Instance]):
    """A picture of a query that follows the registry; the same as `natsdisc.View`, for any thread.

    While the server cannot be reached it shows the last picture, and `age` grows. A forked child of a process
    that registered nothing opens it again with its first use.

        with discovery.view(endpoints("shop", "cart")) as view:
            print(view.pick().transport.address)
    """

    def __init__(
        self,
        sessions: Sessions,
        query: Query,
        open_view: Callable[[asynchronous.Discovery], views.View[_Instance]],
    ) -> None:
        self._sessions = sessions
        self._query = query
        self._open = open_view
        self._closed = self._entered = False
        self._subscribers: dict[object, Callable[[Event], object]] = {}
        self._seen: tuple[int, tuple[_Instance, ...]] | None = None
        session = sessions.get()
        self._opened = (session, session.thread.read(lambda: open_view(session.discovery)))

    def _here(self) -> tuple[Session, views.View[_Instance]]:
        """Return the session and the view of this process."""
        session, view = self._opened
        if session.is_here:
            return self._opened
        with self._sessions.lock:
            session, view = self._opened
            if session.is_here:
                return self._opened
            if self._closed:
                raise ClosedError(f"the view of {self._query} was closed in the process that forked this one")
            session = self._sessions.get()
            view = session.thread.read(lambda: self._open(session.discovery))
            self._seen = None
            for callback in self._subscribers.values():
                self._subscribe(session, view, callback)
            self._opened = session, view
        if self._entered:
            self.wait_for(0, timeout=_REOPENING)
        return session, view

    def _read(self, read: Callable[[views.View[_Instance]], _T]) -> _T:
        session, view = self._here()
        return session.thread.read(lambda: read(view))

    @property
    def instances(self) -> tuple[_Instance, ...]:
        """The instances that are there, sorted by id."""
        _, view = self._here()
        seen = self._seen
        # The version is one number, which any thread may read; what it stands for is copied on the loop.
        if seen is None or seen[0] != view.version:
            seen = self._seen = self._read(lambda view: (view.version, view.instances))
        return seen[1]

    @property
    def version(self) -> int:
        """A number that grows with every change, for `changed`."""
        return self._here()[1].version

    @property
    def synced(self) -> bool:
        """Whether the first picture is complete."""
        return self._here()[1].synced

    @property
    def age(self) -> float:
        """Seconds since the server last confirmed the picture: nothing in it is older than that."""
        return self._read(lambda view: view.age)

    @property
    def panicking(self) -> bool:
        """Whether so many instances were lost at once that picks are also among the lost ones."""
        return self._read(lambda view: view.panicking)

    def __len__(self) -> int:
        return len(self._here()[1])

    def __iter__(self) -> Iterator[_Instance]:
        return iter(self.instances)

    def __contains__(self, item: object) -> bool:
        return self._read(lambda view: item in view)

    def get(self, id: InstanceId) -> _Instance | None:
        """Return the instance with this id, None when it is not there."""
        return self._read(lambda view: view.get(id))

    def pick(self, key: str | bytes | None = None) -> _Instance:
        """Return one instance, by this view's balance, or always the same one for a `key`.

        It takes a switch to the event loop thread and back, about 0.1 ms. Raises NoInstanceError.
        """
        return self._read(lambda view: view.pick(key))

    @contextmanager
    def using(
        self,
        key: str | bytes | None = None,
        *,
        timeout: float | None = 0.0,
        besides: Sequence[Instance] = (),
    ) -> Iterator[_Instance]:
        """Pick an instance and count it as busy meanwhile.

        Waits up to `timeout` seconds until there is one (None: without end). Those in `besides` are
        picked only if there is no other. Raises NoInstanceError; while it waits also
        ClosedError, and what broke the view for good.

            with view.using(timeout=5) as instance:
                requests.get(instance.transport.address)
        """
        session, view = self._here()
        entered: Any = session.thread.read(lambda: view.using(key, timeout=timeout, besides=besides))
        instance: _Instance = session.thread.run(entered.__aenter__, f"picking one of {self._query}")
        try:
            yield instance
        finally:
            if not session.closed:
                session.thread.run(lambda: entered.__aexit__(None, None, None), "ending the use")

    def call(
        self,
        function: Callable[[_Instance], _T],
        *,
        key: str | bytes | None = None,
        attempts: int = 2,
        timeout: float | None = None,
        retry_on: RetryOn | None = None,
    ) -> _T:
        """Pick an instance, return `function(instance)`, and try another instance when that fails.

        `function` is called in this thread. `attempts`, `timeout` (seconds for each attempt) and `retry_on`
        are those of `natsdisc.View.call`. A time-out cannot interrupt `function`: give it one of its own.
        Raises what `natsdisc.View.call` raises.

        Example: `view.call(lambda one: requests.get(one.transport.address, timeout=5), attempts=3)`
        """
        session: Session
        view: Any
        session, view = self._here()
        what = f"calling one of {self._query}"
        returned: _T = call(
            session.thread,
            lambda bridge: view.call(bridge, key=key, attempts=attempts, timeout=timeout, retry_on=retry_on),
            function,
            what,
        )
        return returned

    def report_failure(self, id: InstanceId) -> None:
        """Set an instance aside for a while, longer each time; one that is not there is ignored."""
        self._read(lambda view: view.report_failure(id))

    def wait_for(self, n: int, timeout: float | None = None) -> None:
        """Wait until the first picture is complete and at least `n` instances are there, in whatever state.

        Raises TimeoutError after `timeout` seconds, which says what the view shows; ClosedError, and what
        broke the view for good.
        """
        session, view = self._here()
        session.thread.run(lambda: view.wait_for(n, timeout), f"waiting for {self._query}")

    def changed(self, since: int | None = None, timeout: float | None = None) -> int:
        """Wait for the next change, or for one after the version `since`; return the `version` then.

        Raises TimeoutError after `timeout` seconds, ClosedError, and what broke the view for good.
        """
        session, view = self._here()
        return session.thread.run(
            lambda: view.changed(since), f"waiting for a change of {self._query}", timeout
        )

    def subscribe(self, callback: Callable[[Event], object], replay: bool = False) -> Callable[[], None]:
        """Call `callback` with every later event, after the view has changed.

        With `replay` it is first called with each present instance as Added. A thread of its own calls it, so
        that it may wait and may use this Discovery. Returns a function that unsubscribes.
        Raises InvalidValueError, ClosedError, and what broke the view for good.

        Example: `unsubscribe = view.subscribe(print)`
        """
        session, view = self._here()
        token = object()
        unsubscribe = self._subscribe(session, view, callback, replay=replay)
        self._subscribers[token] = callback

        def end() -> None:
            if self._subscribers.pop(token, None) is not None and session.is_here:
                session.thread.read(unsubscribe)

        return end

    def _subscribe(
        self,
        session: Session,
        view: views.View[_Instance],
        callback: Callable[[Event], object],
        *,
        replay: bool = False,
    ) -> Callable[[], None]:
        check_callback("the callback of a view", callback)
        called = session.callbacks.wrap(callback)
        return session.thread.read(lambda: view.subscribe(called, replay=replay))

    def select(self, function: Callable[[_Instance], _T]) -> dict[InstanceId, _T]:
        """Return what `function` makes of each instance that is there now, by id; a dict of its own."""
        return {instance.id: function(instance) for instance in self.instances}

    def close(self) -> None:
        """End the view, which then stays as it is. A view that a parent process opened is left alone."""
        self._closed = True
        session, view = self._opened
        if session.is_here and not session.closed:
            session.thread.run(view.aclose, f"closing the view of {self._query}")

    def __enter__(self) -> Self:
        self.wait_for(0)
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<View {self._query}>"
