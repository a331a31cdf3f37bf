"""The endpoints of a nats-py micro Service as registrations, and what `$SRV.PING` says about them.

service = await nats.micro.add_service(nc, name="checkout", version="1.0.0")
await service.add_endpoint(name="pay", subject="shop.pay", handler=pay)
registered = await register(discovery, service, namespace="shop")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import log
from ..discovery import Discovery
from ..errors import ClosedError, DiscoveryError, InvalidValueError
from ..model import EndpointInstance, EndpointSpec, Transport

__all__ = ["Difference", "Ping", "Registered", "compare", "ping_of", "register"]

_log = log.logger(__name__)

PING = "$SRV.PING"


class Registered:
    """The endpoints of a service that are registered; `service.stop()` unregisters them first."""

    def __init__(
        self, discovery: Discovery, instances: tuple[EndpointInstance, ...], stop: Callable[[], Any]
    ) -> None:
        self._discovery = discovery
        self._stop = stop
        self.instances = instances

    async def unregister(self, *, drain: float = 0.0) -> None:
        """Unregister the endpoints, after they have drained for `drain` seconds; the service goes on.

        Raises what `Discovery.unregister` does.
        """
        instances, self.instances = self.instances, ()
        if drain > 0 and instances:
            marked = await asyncio.gather(*map(self._discovery.drain, instances), return_exceptions=True)
            if not all(isinstance(one, BaseException) for one in marked):
                await asyncio.sleep(drain)
        outcomes = await asyncio.gather(*map(self._discovery.unregister, instances), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def stop(self, drain: float) -> None:
        """Unregister, whatever comes of it, and then stop the service."""
        try:
            await self.unregister(drain=drain)
        except ClosedError:
            pass  # closing a Discovery unregisters everything
        except DiscoveryError as error:
            _log.warning(
                "the endpoints of a service could not be unregistered, and only their leases end them: %s",
                error,
                extra=log.fields("not_unregistered", error=error),
            )
        await self._stop()


async def register(
    discovery: Discovery,
    service: Any,
    *,
    namespace: str,
    component: str | None = None,
    name: Callable[[Any], str] | None = None,
    drain: float = 0.0,
    **options: Any,
) -> Registered:
    """Register the endpoints that a `nats.micro.Service` has now, and unregister them with it.

    An endpoint becomes `namespace/component/name` with its subject as the transport. `component` is the
    service's name unless given. `name` is a function of the endpoint's info; without it, its name counts.
    The metadata is the endpoint's, with the service's id, name, version and queue group under `micro`. The
    options go to `Discovery.register`.

    `service.stop()`, and the end of `async with service`, then drain for `drain` seconds, unregister, and
    stop the service: clients leave before it ceases to answer.

        registered = await register(discovery, service, namespace="shop", drain=1.0)

    Raises InvalidValueError for a service without endpoints and for two endpoints of one name, and what
    `Discovery.register` does; nothing is registered then.
    """
    info = service.info()
    names = [endpoint.name if name is None else name(endpoint) for endpoint in info.endpoints]
    if not names:
        raise InvalidValueError(f"the service {info.name!r} has no endpoints yet: add them, then register it")
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise InvalidValueError(
            f"the service {info.name!r} has several endpoints named {', '.join(twice)}; tell them apart with "
            "name=, such as name=lambda endpoint: endpoint.subject"
        )
    # The server knows the subjects before anybody is told of them.
    client = getattr(service, "_client", None)
    if client is not None:
        await client.flush()
    specs = [
        EndpointSpec(
            namespace,
            info.name if component is None else component,
            one,
            transport=Transport.nats(endpoint.subject),
            metadata={
                **(endpoint.metadata or {}),
                "micro": {
                    "id": info.id,
                    "name": info.name,
                    "version": info.version,
                    "queue_group": endpoint.queue_group,
                },
            },
        )
        for one, endpoint in zip(names, info.endpoints, strict=True)
    ]
    outcomes = await asyncio.gather(
        *(discovery.register(spec, **options) for spec in specs), return_exceptions=True
    )
    instances = tuple(one for one in outcomes if isinstance(one, EndpointInstance))
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            await asyncio.gather(*map(discovery.unregister, instances), return_exceptions=True)
            raise outcome
    registered = Registered(discovery, instances, service.stop)

    async def stop() -> None:
        await registered.stop(drain)

    # On this one service: nats-py calls nothing before it stops to answer.
    service.stop = stop
    return registered


@dataclass(frozen=True, slots=True)
class Ping:
    """One reply to `$SRV.PING`."""

    name: str
    id: str
    version: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Registered instances whose service did not reply, and services that replied and are not registered."""

    silent: tuple[EndpointInstance, ...]
    unregistered: tuple[Ping, ...]


def ping_of(data: bytes) -> Ping | None:
    """Return what a reply to `$SRV.PING` says, None when it is none."""
    try:
        found = json.loads(data)
        values = [found[field] for field in ("name", "id", "version")]
    except (ValueError, KeyError, TypeError):
        return None
    return Ping(*values) if all(isinstance(one, str) for one in values) else None


def compare(instances: Iterable[EndpointInstance], pings: Sequence[Ping]) -> Difference:
    """Compare what `register` registered with the replies to one `$SRV.PING`.

    Instances that were registered in another way say nothing about micro services, and are left out.
    """
    replied = {ping.id for ping in pings}
    known: dict[str, EndpointInstance] = {}
    silent = []
    for instance in instances:
        micro = instance.metadata.get("micro")
        id = micro.get("id") if isinstance(micro, dict) else None
        if isinstance(id, str):
            known[id] = instance
            if id not in replied:
                silent.append(instance)
    return Difference(tuple(silent), tuple(ping for ping in pings if ping.id not in known))
