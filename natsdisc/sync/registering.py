"""The half of a Discovery that writes, without asyncio."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, TypeVar, Unpack, overload

from ..health import Health
from ..model import (
    EndpointInstance,
    EndpointSpec,
    EventChannelInstance,
    EventChannelSpec,
    EventSourceInstance,
    EventSourceSpec,
    Instance,
    InstanceId,
    ModelInstance,
    ModelSpec,
    Query,
    Spec,
    Status,
    Transport,
)
from ..options import UNSET, Unset
from ..registering import RegisterOptions
from .registration import Registration
from .session import Sessions

__all__ = ["Registering"]

_Instance = TypeVar("_Instance", bound=Instance)
_Ttl: TypeAlias = "float | Unset | None"


class Registering:
    """Registers instances and changes them; a part of `natsdisc.sync.Discovery`."""

    _sessions: Sessions

    @property
    def instance_id(self) -> int:
        """This process's id, an unsigned 64-bit integer; a forked child has another one."""
        return self._sessions.get().discovery.instance_id

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process, each with its state; pending ones too."""
        session = self._sessions.get()
        held = session.thread.read(lambda: session.discovery.registrations)
        return tuple(Registration(session, one) for one in held)

    @overload
    def register(
        self, spec: EndpointSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> EndpointInstance: ...

    @overload
    def register(
        self, spec: EventChannelSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> EventChannelInstance: ...

    @overload
    def register(
        self, spec: EventSourceSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> EventSourceInstance: ...

    @overload
    def register(
        self, spec: ModelSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> ModelInstance: ...

    def register(
        self,
        spec: Any,
        *,
        timeout: float | None = None,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> Any:
        """Put an instance into the registry until it is unregistered, or this process dies.

        The other arguments are those of `natsdisc.Discovery.register`: `lease_ttl` and `health_interval` are
        in seconds, and the event loop thread awaits `health`. After `timeout` seconds the registration that
        had begun is taken back. Raises TimeoutError, and what `natsdisc.Discovery.register` raises.

        >>> discovery.register(  # doctest: +SKIP
        ...     EndpointSpec("shop", "cart", "pay", transport=Transport.http(address)), timeout=5
        ... )
        """
        options = _options(lease_ttl, health, health_interval, health_failures, health_successes)
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.register(spec, **options), f"registering {named(spec)}", timeout
        )

    def announce(
        self,
        spec: Spec,
        *,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> Registration:
        """Register as soon as possible, and return at once; the arguments are those of `register`.

        The registration is `pending` until it is made: while NATS or JetStream is away it is tried again.
        When the server refuses it, or another value lies under its id, it is `failed`, and its `error` says
        why. `unregister` ends it in any state. Raises what `natsdisc.Discovery.announce` raises.

        >>> registration = discovery.announce(spec)  # doctest: +SKIP
        >>> registration.active(timeout=30)  # doctest: +SKIP
        """
        options = _options(lease_ttl, health, health_interval, health_failures, health_successes)
        session = self._sessions.get()
        made = session.thread.read(lambda: session.discovery.announce(spec, **options))
        return Registration(session, made)

    @overload
    def registered(
        self, spec: EndpointSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> AbstractContextManager[EndpointInstance]: ...

    @overload
    def registered(
        self, spec: EventChannelSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> AbstractContextManager[EventChannelInstance]: ...

    @overload
    def registered(
        self, spec: EventSourceSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> AbstractContextManager[EventSourceInstance]: ...

    @overload
    def registered(
        self, spec: ModelSpec, *, timeout: float | None = ..., **options: Unpack[RegisterOptions]
    ) -> AbstractContextManager[ModelInstance]: ...

    @contextmanager
    def registered(
        self,
        spec: Any,
        *,
        timeout: float | None = None,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> Iterator[Any]:
        """Hold an instance in the registry while the block runs; the arguments are those of `register`.

        `timeout` (seconds) bounds the registering. Holders of the same spec are counted, those of `register`
        and `announce` too: the last one out unregisters. An error in the block is raised unchanged; an error
        of unregistering is logged then. A forked child that leaves the block unregisters nothing.
        Raises what `register` and `unregister` raise.

        >>> with discovery.registered(spec) as instance:  # doctest: +SKIP
        ...     serve(instance.transport.address)
        """
        options = _options(lease_ttl, health, health_interval, health_failures, health_successes)
        session = self._sessions.get()
        what = named(spec)
        held: Any = session.thread.read(lambda: session.discovery.registered(spec, **options))
        instance = session.thread.run(held.__aenter__, f"registering {what}", timeout)

        def leave(kind: Any, error: Any, trace: Any) -> None:
            if session.is_here and not session.closed:  # closing unregistered it
                session.thread.run(lambda: held.__aexit__(kind, error, trace), f"unregistering {what}")

        try:
            yield instance
        except BaseException as error:
            leave(type(error), error, error.__traceback__)
            raise
        else:
            leave(None, None, None)

    def unregister(self, instance: Instance | InstanceId, *, timeout: float | None = None) -> None:
        """Take an instance out of the registry; one that is not there is already unregistered.

        Ends a pending one too. After `timeout` seconds it is still taken out in the background.
        Raises TimeoutError, and what `natsdisc.Discovery.unregister` raises.

        >>> discovery.unregister(mine)  # doctest: +SKIP
        """
        session = self._sessions.get()
        session.thread.run(
            lambda: session.discovery.unregister(instance), f"unregistering {named(instance)}", timeout
        )

    def update(
        self,
        instance: _Instance,
        *,
        timeout: float | None = None,
        transport: Transport | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
        card: Any = UNSET,
    ) -> _Instance:
        """Change what is registered, if no other client changed it first; watchers get an Added.

        Fields that are not named stay as they are. Raises TimeoutError after `timeout` seconds, and what
        `natsdisc.Discovery.update` raises.

        >>> discovery.update(mine, metadata={"weight": 3})  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.update(instance, transport=transport, metadata=metadata, card=card),
            f"updating {named(instance)}",
            timeout,
        )

    def set_status(
        self, instance: EndpointInstance, status: Status | str, *, timeout: float | None = None
    ) -> EndpointInstance:
        """Set the status of an endpoint, of this process or of another; watchers get an Added.

        After `timeout` seconds the status may still be set in the background. Raises TimeoutError, and what
        `natsdisc.Discovery.set_status` raises.

        >>> discovery.set_status(instance, Status.DISABLED)  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.set_status(instance, status),
            f"setting the status of {named(instance)}",
            timeout,
        )

    def drain(self, instance: EndpointInstance, *, timeout: float | None = None) -> EndpointInstance:
        """Set an endpoint's status to `draining`, so that pickers leave it out while it still serves.

        Raises TimeoutError after `timeout` seconds, and what `natsdisc.Discovery.drain` raises.

        >>> discovery.drain(mine)  # doctest: +SKIP
        """
        return self.set_status(instance, Status.DRAINING, timeout=timeout)

    def leases(self, query: Query, *, timeout: float | None = None) -> builtins.dict[InstanceId, float]:
        """Return the seconds that the leases of the instances of `query` have left.

        Instances without a lease are not in it. Each lease is one question to the server: this is for
        looking, not for serving. Raises TimeoutError after `timeout` seconds, and what
        `natsdisc.Discovery.leases` raises.

        >>> discovery.leases(endpoints("shop"))  # doctest: +SKIP
        """
        session = self._sessions.get()
        return session.thread.run(
            lambda: session.discovery.leases(query), f"reading the leases of {query}", timeout
        )


def named(one: object) -> str:
    """Return how errors name a spec, an instance or an id."""
    if isinstance(one, (EndpointSpec, ModelSpec)):
        return f"{one.namespace}/{one.component}/{one.endpoint}"
    return str(getattr(one, "id", one))


def _options(
    lease_ttl: _Ttl, health: Health | None, interval: float, failures: int, successes: int
) -> RegisterOptions:
    options = RegisterOptions(
        health=health, health_interval=interval, health_failures=failures, health_successes=successes
    )
    if not isinstance(lease_ttl, Unset):
        options["lease_ttl"] = lease_ttl
    return options
