"""Event channels and sources in a registry: registered, read, watched and removed."""

from __future__ import annotations

import asyncio

import natsdisc
import natsdisc.testing
from natsdisc import (
    Added,
    EventChannelSpec,
    EventSourceSpec,
    ModelSpec,
    RemovalReason,
    Removed,
    Scope,
    Transport,
    event_channels,
    event_sources,
)
from tests.rig import eventually

from .conftest import Registry

CART = Scope.component("shop", "cart")
ZMQ = Transport("Zmq", {"endpoint": "tcp://192.0.2.2:35299"})


async def test_a_channel_from_its_registration_to_its_removal(registry: Registry) -> None:
    service, client = await registry.join(), await registry.join()
    mine = await service.register(EventChannelSpec(CART, "kv-events", transport=ZMQ))
    wide = await service.register(EventChannelSpec(Scope.namespace("shop"), "kv-events", transport=ZMQ))
    assert await service.register(EventChannelSpec(CART, "kv-events", transport=ZMQ)) == mine
    assert await client.list(event_channels()) == [wide, mine]
    assert await client.list(event_channels(Scope.namespace("shop"))) == [wide]
    assert await client.list(event_channels(CART, "kv-events")) == [mine]
    assert await client.list(event_channels(CART, "kv")) == []
    assert await client.list(natsdisc.endpoints()) == []
    async with (
        client.list_and_watch(event_channels(CART)) as events,
        client.view(event_channels(CART)) as view,
        asyncio.timeout(20),
    ):
        assert await anext(events) == Added(mine)
        assert view.pick() == mine
        assert mine in view
        assert wide not in view
        view.report_failure(mine.id)
        moved = await service.update(mine, transport=Transport("Nats", {"subject_prefix": "a"}))
        assert await anext(events) == Added(moved)
        await client.unregister(moved.id)
        assert await anext(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
        # The owner has a lease and comes back; it leaves for good.
        await eventually(lambda: len(view) == 1)
        await service.unregister(moved)
        await eventually(lambda: not len(view))


async def test_a_source_and_its_crash(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    metadata = {"worker": {"worker_id": 2**63, "dp_rank": 0}}
    mine = await service.register(EventSourceSpec(CART, "kv events", metadata=metadata))
    assert mine.publisher_id == service.instance_id
    async with client.list_and_watch(event_sources(CART, "kv events")) as events, asyncio.timeout(30):
        assert await anext(events) == Added(mine)
        await natsdisc.testing.crash(service)
        assert await anext(events) == Removed(mine.id, RemovalReason.EXPIRED)
    assert await client.list(event_sources()) == []


async def test_they_have_no_status(registry: Registry) -> None:
    service = await registry.join()
    card = await service.register(ModelSpec("shop", "cart", "pay", card={}))
    source = await service.register(EventSourceSpec(CART, "t", metadata=None))
    assert not hasattr(card, "status")
    assert not hasattr(source, "status")
