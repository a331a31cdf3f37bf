"""Micro services in the registry; the example under load is in test_rolling_restart."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats import micro
from nats.micro.request import Request

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, Transport, endpoints
from natsdisc.integrations.micro import Ping, compare, ping_of, register
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.shell import Shell

SHOP = endpoints("shop")


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[nats.NATS]:
    nc = await nats.connect(nats_url)
    yield nc
    await nc.close()


@pytest.fixture
async def discovery(nats_url: str) -> AsyncIterator[natsdisc.Discovery]:
    async with natsdisc.connect(nats_url, bucket_prefix=f"micro{secrets.token_hex(6)}") as discovery:
        yield discovery


async def answer(request: Request) -> None:
    await request.respond(b"paid")


async def test_endpoints_are_registered_and_unregistered_with_their_service(
    nc: nats.NATS, discovery: natsdisc.Discovery
) -> None:
    service = await micro.add_service(nc, name="cart", version="1.2.3", queue_group="q")
    await service.add_endpoint(name="pay", handler=answer, metadata={"zone": "a"})
    await service.add_group(name="v2").add_endpoint(name="refund", handler=answer)
    registered = await register(discovery, service, namespace="shop", lease_ttl=5.0)
    found = await discovery.list(SHOP)
    assert tuple(found) == registered.instances
    assert [(one.component, one.endpoint, one.transport) for one in found] == [
        ("cart", "pay", Transport.nats("pay")),
        ("cart", "refund", Transport.nats("v2.refund")),
    ]
    about = {"id": service.id, "name": "cart", "version": "1.2.3", "queue_group": "q"}
    assert found[0].metadata == {"zone": "a", "micro": about}
    assert (await nc.request(found[1].transport.address, b"", timeout=5)).data == b"paid"
    await service.stop()
    assert await discovery.list(SHOP) == []
    with pytest.raises(nats.errors.NoRespondersError):
        await nc.request("v2.refund", b"", timeout=5)
    await service.stop()


async def test_a_service_answers_while_it_drains(nc: nats.NATS, discovery: natsdisc.Discovery) -> None:
    async with await micro.add_service(nc, name="cart", version="1.0.0") as service:
        await service.add_endpoint(name="pay", handler=answer)
        await register(discovery, service, namespace="shop", drain=0.3)
        async with discovery.view(SHOP) as view:
            await view.wait_for(1, timeout=30)
            answered: list[bytes] = []
            view.subscribe(lambda event: answered.append(b"") if isinstance(event, natsdisc.Added) else None)
            await service.stop()
            assert answered  # it was marked first
            await eventually(lambda: len(view) == 0)


async def test_a_service_stops_when_the_registry_is_closed(
    nc: nats.NATS, discovery: natsdisc.Discovery
) -> None:
    service = await micro.add_service(nc, name="cart", version="1.0.0")
    await service.add_endpoint(name="pay", handler=answer)
    await register(discovery, service, namespace="shop")
    await discovery.close()
    await service.stop()
    assert service.stopped.is_set()


async def test_what_cannot_be_registered(nc: nats.NATS, discovery: natsdisc.Discovery) -> None:
    async with await micro.add_service(nc, name="cart", version="1.0.0") as service:
        with pytest.raises(natsdisc.InvalidValueError, match="no endpoints yet"):
            await register(discovery, service, namespace="shop")
        await service.add_endpoint(name="pay", handler=answer)
        await service.add_group(name="v2").add_endpoint(name="pay", handler=answer)
        with pytest.raises(natsdisc.InvalidValueError, match="several endpoints named pay"):
            await register(discovery, service, namespace="shop")
        both = await register(discovery, service, namespace="shop", name=lambda endpoint: endpoint.subject)
        assert [one.endpoint for one in both.instances] == ["pay", "v2.pay"]
        await both.unregister()
        # All or nothing.
        await discovery.register(EndpointSpec("shop", "cart", "v2.pay", transport=Transport.nats("other")))
        with pytest.raises(natsdisc.AlreadyRegisteredError):
            await register(discovery, service, namespace="shop", name=lambda endpoint: endpoint.subject)
        assert [one.endpoint for one in await discovery.list(SHOP)] == ["v2.pay"]


def instance(number: int, id: object) -> EndpointInstance:
    metadata = {"micro": {"id": id}} if id is not None else {}
    spec = EndpointSpec("shop", "cart", "pay", transport=Transport.nats("pay"), metadata=metadata)
    return spec.with_instance_id(number)


IDS = st.sampled_from(["a", "b", "c", "d", None, 5])


@given(st.lists(IDS, max_size=6), st.lists(st.sampled_from("abcde"), max_size=6))
def test_compare(registered: list[object], replied: list[str]) -> None:
    instances = [instance(number, id) for number, id in enumerate(registered)]
    pings = [Ping("cart", id, "1.0.0") for id in replied]
    difference = compare(instances, pings)
    assert [one.metadata["micro"]["id"] for one in difference.silent] == [
        id for id in registered if isinstance(id, str) and id not in replied
    ]
    assert [ping.id for ping in difference.unregistered] == [id for id in replied if id not in registered]


@given(st.binary(max_size=40) | st.builds(lambda text: json.dumps(text).encode(), st.text()))
def test_what_is_no_ping_is_none(data: bytes) -> None:
    assert ping_of(data) is None
    assert ping_of(b'{"name": "cart", "id": 5, "version": "1"}') is None
    assert ping_of(b'{"name": "cart", "id": "5", "version": "1"}') == Ping("cart", "5", "1")


async def test_doctor_compares_the_registry_with_ping(shell: Shell) -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        nc = await nats.connect(server.url)

        async def finding() -> tuple[str, str]:
            done = await shell.run("doctor", "--server", server.url, "--json")
            [found] = [one for one in json.loads(done.out) if one["check"] == "micro services"]
            return found["state"], found["text"]

        service = await micro.add_service(nc, name="cart", version="1.0.0")
        await service.add_endpoint(name="pay", handler=answer)
        await register(discovery, service, namespace="shop")
        other = await micro.add_service(nc, name="other", version="1.0.0")
        state, text = await finding()
        assert state == "note"
        assert f"not registered: other {other.id}" in text
        # It no longer replies, and is still registered.
        await type(service).stop(service)
        state, text = await finding()
        assert state == "note"
        assert "1 endpoint of 1 did not reply" in text
        assert f"shop/cart/pay/{discovery.instance_id:x}" in text
        await other.stop()
        await nc.close()
