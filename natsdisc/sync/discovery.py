"""Registering, listing and watching without asyncio."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from .. import discovery as asynchronous
from .. import view as views
from ..balance import Balance
from ..callbacks import check_callback
from ..connect import Connecting
from ..connect import connect as connect_asynchronously
from ..model import (
    EndpointInstance,
    EndpointQuery,
    EndpointSpec,
    EventChannelInstance,
    EventChannelQuery,
    EventChannelSpec,
    EventSourceInstance,
    EventSourceQuery,
    EventSourceSpec,
    Instance,
    InstanceId,
    ModelInstance,
    ModelQuery,
    ModelSpec,
    Query,
)
from ..registrar import Registration
from ..stats import Stats
from .session import Sessions
from .signals import close_on_signal
from .thread import Callbacks
from .view import View
from .watch import Watch

__all__ = ["Discovery", "connect"]

_Instance = TypeVar("_Instance", bound=Instance)


class Discovery:
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
        self._sessions = Sessions(lambda callbacks: make())

    @classmethod
    def _with_callbacks(
        cls, make: Callable[[Callbacks], asynchronous.Discovery | Awaitable[asynchronous.Discovery]]
    ) -> Self:
        discovery = cls.__new__(cls)
        discovery._sessions = Sessions(make)
        return discovery

    @property
    def instance_id(self) -> int:
        """This process's id, an unsigned 64-bit integer; a forked child has another one."""
        return self._sessions.get().discovery.instance_id

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process, each with its state."""
        session = self._sessions.get()
        return session.thread.read(lambda: session.discovery.registrations)

    def stats(self) -> Stats:
        """Return the counters, and what is seen and held, as they are now."""
        session = self._sessions.get()
        return session.thread.read(session.discovery.stats)

    @overload
    def register(
        self, spec: EndpointSpec, *, timeout: float | None = ..., **options: Any
    ) -> EndpointInstance: ...

    @overload
    def register(
        self, spec: EventChannelSpec, *, timeout: float | None = ..., **options: Any
    ) -> EventChannelInstance: ...

    @overload
    def register(
        self, spec: EventSourceSpec, *, timeout: float | None = ..., **options: Any
    ) -> EventSourceInstance: ...

    @overload
    def register(self, spec: ModelSpec, *, timeout: float | None = ..., **options: Any) -> ModelInstance: ...

    def register(self, spec: Any, *, timeout: float | None = None, **options: Any) -> Any:
        """Put an instance into the registry until it is unregistered, or this process dies.

        The options are those of `natsdisc.Discovery.register`, such as `lease_ttl` in seconds. After
        `timeout` seconds what had begun is taken back.
        Raises TimeoutError, and what `natsdisc.Discovery.register` does.

            discovery.register(EndpointSpec("shop", "cart", "pay", transport=Transport.http(address)))
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.register(spec, **options), f"registering {_named(spec)}", timeout
        )

    def unregister(self, instance: Instance | InstanceId, *, timeout: float | None = None) -> None:
        """Take an instance out of the registry; one that is not there is already unregistered.

        After `timeout` seconds it is still taken out in the background. Raises TimeoutError, and what
        `natsdisc.Discovery.unregister` does.

        Example: `discovery.unregister(mine)`
        """
        session = self._sessions.get()
        session.thread.run(
            lambda: session.discovery.unregister(instance), f"unregistering {_named(instance)}", timeout
        )

    def update(self, instance: _Instance, *, timeout: float | None = None, **changes: Any) -> _Instance:
        """Change what is registered, if nobody else changed it first; watchers get an Added.

        The changes are `transport`, `metadata` or `card`. Raises TimeoutError after `timeout` seconds, and
        what `natsdisc.Discovery.update` does.

        Example: `discovery.update(mine, metadata={"weight": 3})`
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.update(instance, **changes), f"updating {_named(instance)}", timeout
        )

    def drain(self, instance: EndpointInstance, *, timeout: float | None = None) -> EndpointInstance:
        """Mark an endpoint, so that pickers leave it out while it still serves.

        Raises TimeoutError after `timeout` seconds, and what `natsdisc.Discovery.drain` does.
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.drain(instance), f"draining {_named(instance)}", timeout
        )

    @overload
    def list(
        self, query: EndpointQuery, *, timeout: float | None = ..., **options: Any
    ) -> builtins.list[EndpointInstance]: ...

    @overload
    def list(
        self, query: ModelQuery, *, timeout: float | None = ..., **options: Any
    ) -> builtins.list[ModelInstance]: ...

    @overload
    def list(
        self, query: EventChannelQuery, *, timeout: float | None = ..., **options: Any
    ) -> builtins.list[EventChannelInstance]: ...

    @overload
    def list(
        self, query: EventSourceQuery, *, timeout: float | None = ..., **options: Any
    ) -> builtins.list[EventSourceInstance]: ...

    @overload
    def list(
        self, query: Query, *, timeout: float | None = ..., **options: Any
    ) -> builtins.list[Instance]: ...

    def list(self, query: Query, *, timeout: float | None = None, **options: Any) -> builtins.list[Any]:
        """Return the instances of `query` as they are now, sorted by id; none without a bucket.

        The options are those of `natsdisc.Discovery.list`. Raises TimeoutError after `timeout` seconds, and
        what `natsdisc.Discovery.list` does.

        Example: `discovery.list(endpoints("shop"))`
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.list(query, **options), f"listing {query}", timeout
        )

    def list_and_watch(self, query: Query, **options: Any) -> Watch:
        """Return a watch: the instances of `query` as Added, and then every change, until it is closed.

        The options and guarantees are those of `natsdisc.Discovery.list_and_watch`.
        """
        session = self._sessions.get()
        watch = session.thread.read(lambda: session.discovery.list_and_watch(query, **options))
        return Watch(session, watch, f"watch of {query}")

    @overload
    def view(
        self, query: EndpointQuery, *, balance: Balance | None = ..., **options: Any
    ) -> View[EndpointInstance]: ...

    @overload
    def view(
        self, query: ModelQuery, *, balance: Balance | None = ..., **options: Any
    ) -> View[ModelInstance]: ...

    @overload
    def view(self, query: Query, *, balance: Balance | None = ..., **options: Any) -> View[Instance]: ...

    def view(self, query: Query, *, balance: Balance | None = None, **options: Any) -> View[Any]:
        """Return a picture of `query` that follows the registry, picking by `balance` (or round robin).

        The options are those of `natsdisc.Discovery.view`. Raises ClosedError, InvalidValueError.

            with discovery.view(endpoints("shop", "cart")) as view:
                view.pick()
        """

        def open_view(discovery: asynchronous.Discovery) -> views.View[Any]:
            return discovery.view(query, balance=balance, **options)

        return View(self._sessions, query, open_view)

    def close(self, *, drain: float = 0.0) -> None:
        """End the watches, unregister everything this process registered, and let go of the connection.

        With `drain` (seconds), mark our endpoints first, and go on serving for so long. It takes two seconds
        at most beyond that. Registrations of a parent process from before a fork are left alone.
        Raises InvalidValueError for a `drain` that is no number of seconds.
        """
        self._sessions.close(drain)

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

    def make(callbacks: Callbacks) -> Connecting:
        wrapped: dict[str, Any] = {name: callbacks.wrap(callback) for name, callback in given.items()}
        return connect_asynchronously(servers, **wrapped, **options)

    return Discovery._with_callbacks(make)


def _named(one: object) -> str:
    """Return how errors name a spec, an instance or an id."""
    if isinstance(one, (EndpointSpec, ModelSpec)):
        return f"{one.namespace}/{one.component}/{one.endpoint}"
    return str(getattr(one, "id", one))
