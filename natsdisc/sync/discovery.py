"""Registering, listing and watching without asyncio."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Self, overload

from .. import discovery as asynchronous
from .. import registration as registrations
from .. import view as views
from ..balance import Balance
from ..callbacks import check_callback
from ..connect import Connecting
from ..connect import connect as connect_asynchronously
from ..history import Change
from ..model import (
    EndpointInstance,
    EndpointQuery,
    EventChannelInstance,
    EventChannelQuery,
    EventSourceInstance,
    EventSourceQuery,
    Instance,
    Kind,
    ModelInstance,
    ModelQuery,
    Query,
)
from ..services import Service
from ..stats import Stats
from ..where import Where
from .registering import Registering
from .registration import Registration
from .session import Session, Sessions
from .signals import close_on_signal
from .view import View
from .watch import Watch

__all__ = ["Discovery", "connect"]


class Discovery(Registering):
    """Registers instances, lists them, and watches them come and go, without asyncio.

    `make` is called on the event loop thread, once in each process. It returns a `natsdisc.Discovery`, or
    something to await for one. Most programs call `connect`; with a store in memory:

        natsdisc.sync.Discovery(lambda: natsdisc.Discovery(natsdisc.MemoryStore()))

    Calls may come from any thread. It lives until `close`, the end of `with`, or of the interpreter; each of
    them unregisters everything. A forked child gets a Discovery and a connection of its own with its first
    call. If the parent process holds registrations then, the child's calls raise ClosedError.
    """

    def __init__(
        self, make: Callable[[], asynchronous.Discovery | Awaitable[asynchronous.Discovery]]
    ) -> None:
        self._sessions = Sessions(lambda session: make())

    @classmethod
    def _with_session(
        cls, make: Callable[[Session], asynchronous.Discovery | Awaitable[asynchronous.Discovery]]
    ) -> Self:
        discovery = cls.__new__(cls)
        discovery._sessions = Sessions(make)
        return discovery

    def stats(self) -> Stats:
        """Return the counters, and what is seen and held, as they are now."""
        session = self._sessions.get()
        return session.thread.read(session.discovery.stats)

    @overload
    def list(
        self,
        query: EndpointQuery,
        *,
        where: Where[EndpointInstance] | None = ...,
        timeout: float | None = ...,
    ) -> builtins.list[EndpointInstance]: ...

    @overload
    def list(
        self, query: ModelQuery, *, where: Where[ModelInstance] | None = ..., timeout: float | None = ...
    ) -> builtins.list[ModelInstance]: ...

    @overload
    def list(
        self,
        query: EventChannelQuery,
        *,
        where: Where[EventChannelInstance] | None = ...,
        timeout: float | None = ...,
    ) -> builtins.list[EventChannelInstance]: ...

    @overload
    def list(
        self,
        query: EventSourceQuery,
        *,
        where: Where[EventSourceInstance] | None = ...,
        timeout: float | None = ...,
    ) -> builtins.list[EventSourceInstance]: ...

    @overload
    def list(
        self, query: Query, *, where: Where[Instance] | None = ..., timeout: float | None = ...
    ) -> builtins.list[Instance]: ...

    def list(
        self, query: Query, *, where: Where[Any] | None = None, timeout: float | None = None
    ) -> builtins.list[Any]:
        """Return the instances of `query` as they are now, sorted by id; none without a bucket.

        With `where`, a function of an instance, return those for which it is true; the event loop thread
        calls it. Raises TimeoutError after `timeout` seconds, and what `natsdisc.Discovery.list` raises.

        >>> discovery.list(endpoints("shop"), timeout=5)  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.list(query, where=where), f"listing {query}", timeout
        )

    def services(self, kind: Kind = Kind.ENDPOINT, *, timeout: float | None = None) -> builtins.list[Service]:
        """Return the places that have instances of `kind`, with their number, sorted by name.

        Raises TimeoutError after `timeout` seconds, and what `natsdisc.Discovery.services` raises.

        >>> [service.endpoint for service in discovery.services()]  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(lambda: session.discovery.services(kind), "listing the services", timeout)

    def history(
        self, query: Query, *, since: datetime | float | None = None, timeout: float | None = None
    ) -> builtins.list[Change]:
        """Return what happened to the instances of `query`, the oldest change first.

        `since` is an aware datetime, or seconds before now; without it, all that is kept. Raises TimeoutError
        after `timeout` seconds, and what `natsdisc.Discovery.history` raises.

        >>> discovery.history(endpoints("shop"), since=3600)  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.history(query, since=since), f"the history of {query}", timeout
        )

    def check(self, *, timeout: float = 2.0) -> None:
        """Return when the server answers, and every watch, view and registration is well.

        Waits `timeout` seconds at most for all of it. Raises NotReadyError, whose `reasons` say all that is
        not well, and what `natsdisc.Discovery.check` raises.

        >>> discovery.check(timeout=1.0)  # doctest: +SKIP
        """
        session = self._sessions.get()
        session.thread.run(lambda: session.discovery.check(timeout=timeout), "checking")

    def list_and_watch(self, query: Query, *, where: Where[Any] | None = None) -> Watch:
        """Return a watch: the instances of `query` as Added, and then every change, until it is closed.

        `where` and the guarantees are those of `natsdisc.Discovery.list_and_watch`; the event loop thread
        calls `where`. Raises InvalidValueError, ClosedError.

        >>> with discovery.list_and_watch(endpoints("shop")) as events:  # doctest: +SKIP
        ...     print(next(events))
        """
        session = self._sessions.get()
        watch = session.thread.read(lambda: session.discovery.list_and_watch(query, where=where))
        return Watch(session, watch, f"watch of {query}")

    @overload
    def view(
        self,
        query: EndpointQuery,
        *,
        where: Where[EndpointInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EndpointInstance]: ...

    @overload
    def view(
        self,
        query: ModelQuery,
        *,
        where: Where[ModelInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[ModelInstance]: ...

    @overload
    def view(
        self,
        query: EventChannelQuery,
        *,
        where: Where[EventChannelInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EventChannelInstance]: ...

    @overload
    def view(
        self,
        query: EventSourceQuery,
        *,
        where: Where[EventSourceInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EventSourceInstance]: ...

    @overload
    def view(
        self,
        query: Query,
        *,
        where: Where[Instance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[Instance]: ...

    def view(
        self,
        query: Query,
        *,
        where: Where[Any] | None = None,
        balance: Balance | None = None,
        panic_threshold: float = 0.5,
    ) -> View[Any]:
        """Return a picture of `query` that follows the registry, picking by `balance` (or round robin).

        The arguments are those of `natsdisc.Discovery.view`; the event loop thread calls `where`.
        Raises ClosedError, InvalidValueError.

        >>> with discovery.view(endpoints("shop", "cart")) as view:  # doctest: +SKIP
        ...     view.pick()
        """

        def open_view(discovery: asynchronous.Discovery) -> views.View[Any]:
            return discovery.view(query, where=where, balance=balance, panic_threshold=panic_threshold)

        return View(self._sessions, query, open_view)

    def close(self, *, drain: float = 0.0, keep: bool = False) -> None:
        """End the watches, unregister everything this process registered, and let go of the connection.

        With `drain` (seconds), mark our endpoints first, and go on serving for so long. With `keep`, nothing
        is unregistered: see `natsdisc.Discovery.close`. It takes two seconds at most beyond `drain`.
        Registrations of a parent process from before a fork are left alone.
        Raises InvalidValueError for a `drain` that is no number of seconds, or with `keep`.

        >>> discovery.close(drain=5.0)  # doctest: +SKIP
        """
        self._sessions.close(drain, keep)

    def close_on_signal(self, *, drain: float, signals: tuple[int, ...] | None = None) -> None:
        """On a signal (SIGTERM) close with `drain` seconds first, then do what the signal did before.

        Call it in the main thread, in each process that registers, after the server has set its own handlers:
        with gunicorn in `post_worker_init`. A server goes on serving while instances drain.
        Raises InvalidValueError outside of the main thread.

        Example: `discovery.close_on_signal(drain=2.0)`
        """
        close_on_signal(self.close, drain, signals)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<natsdisc.sync.Discovery {self._sessions.latest.discovery!r}>"


def connect(
    servers: str | builtins.list[str] | None = None,
    *,
    on_lost: Callable[[Registration], object] | None = None,
    on_state: Callable[[Registration], object] | None = None,
    **options: Any,
) -> Discovery:
    """Return a connected Discovery; the options are those of `natsdisc.connect`.

    With `wait` seconds, wait for a first server. A thread of its own calls `on_lost` and `on_state`.
    Raises what awaiting `natsdisc.connect` does.

    >>> with connect("nats://127.0.0.1:4222", wait=30) as discovery:  # doctest: +SKIP
    ...     discovery.list(endpoints("shop"))
    """
    given = {name: one for name, one in (("on_lost", on_lost), ("on_state", on_state)) if one is not None}
    for name, callback in given.items():
        check_callback(name, callback)

    def make(session: Session) -> Connecting:
        wrapped: dict[str, Any] = {name: _told(session, callback) for name, callback in given.items()}
        return connect_asynchronously(servers, **wrapped, **options)

    return Discovery._with_session(make)


def _told(
    session: Session, callback: Callable[[Registration], object]
) -> Callable[[registrations.Registration], None]:
    """Return a function for the loop thread that has `callback` called with a registration for any thread."""
    put = session.callbacks.wrap(callback)
    return lambda registration: put(Registration(session, registration))
