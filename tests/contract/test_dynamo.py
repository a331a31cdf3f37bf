"""Dynamo's own discovery tests, told in our words: what a user of Dynamo may expect of natsdisc.

docs/dynamo.md has a table of these tests beside Dynamo's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from natsdisc import (
    Added,
    EndpointInstance,
    EndpointSpec,
    EventChannelSpec,
    EventSourceSpec,
    ModelSpec,
    RemovalReason,
    Removed,
    Scope,
    Transport,
    endpoints,
    event_channels,
    event_sources,
    models,
)
from natsdisc.errors import AlreadyRegisteredError
from natsdisc.keys import key_of, parse_key
from natsdisc.model import EventChannelInstanceId, EventSourceInstanceId, Kind
from natsdisc.store import Write
from tests.rig import eventually

from .conftest import Registry

SUBJECT = Transport.nats("nats.example.4222")
HARD = Scope.endpoint("ns.with/slash", "component.*", "endpoint.>/%")
DECODE = Scope.endpoint("ns/one", "worker.component", "decode/*")


def spec(namespace: str = "ns", component: str = "comp", endpoint: str = "ep") -> EndpointSpec:
    return EndpointSpec(namespace, component, endpoint, transport=SUBJECT)


async def test_registering_returns_the_instance_under_the_id_of_the_process(registry: Registry) -> None:
    client = await registry.join(instance_id=42)
    mine = await client.register(spec("test", "comp1", "ep1"))
    assert (mine.namespace, mine.component, mine.endpoint, mine.instance_id) == ("test", "comp1", "ep1", 42)


async def test_queries_end_at_whole_names(registry: Registry) -> None:
    client = await registry.join()
    for place in (("ns1", "comp1", "ep1"), ("ns1", "comp1", "ep2"), ("ns2", "comp2", "ep1")):
        await client.register(spec(*place))
    await client.register(spec("ns1", "comp10", "ep1"))
    await client.register(spec("ns10", "comp1", "ep1"))
    found = [
        len(await client.list(query))
        for query in (
            endpoints(),
            endpoints("ns1"),
            endpoints("ns1", "comp1"),
            endpoints("ns1", "comp1", "ep1"),
        )
    ]
    assert found == [5, 3, 2, 1]
    # A model card of the same place is of another kind.
    card = await client.register(ModelSpec("ns1", "comp1", "ep1", card={}))
    assert await client.list(models("ns1", "comp1", "ep1")) == [card]
    assert len(await client.list(endpoints("ns1", "comp1"))) == 2


async def test_a_watch_that_began_first_sees_two_come_and_one_go(registry: Registry) -> None:
    one, two = await registry.join(instance_id=1), await registry.join(instance_id=2)
    async with one.list_and_watch(endpoints("ns", "comp", "ep")) as events, asyncio.timeout(20):
        first = await one.register(spec())
        assert await anext(events) == Added(first)
        second = await two.register(spec())
        assert await anext(events) == Added(second)
        await one.unregister(first)
        assert await anext(events) == Removed(first.id, RemovalReason.UNREGISTERED, last=first)


async def test_what_is_unregistered_after_a_watch_was_established_is_reported(registry: Registry) -> None:
    client = await registry.join()
    mine = await client.register(spec())
    async with client.list_and_watch(endpoints()) as events, asyncio.timeout(20):
        assert await anext(events) == Added(mine)
        await client.unregister(mine)
        event = await anext(events)
        assert isinstance(event, Removed)
        assert event.id == mine.id


async def test_who_listed_an_instance_sees_its_removal_in_an_older_watch(registry: Registry) -> None:
    client = await registry.join()
    async with client.list_and_watch(endpoints()) as events, asyncio.timeout(20):
        await events.synced()
        mine = await client.register(spec())
        assert await client.list(endpoints()) == [mine]
        assert await anext(events) == Added(mine)
        await client.unregister(mine)
        event = await anext(events)
        assert isinstance(event, Removed)
        assert event.id == mine.id


async def test_a_change_under_the_same_id_is_added_again(registry: Registry) -> None:
    client = await registry.join(instance_id=1)
    async with client.list_and_watch(endpoints("ns")) as events, asyncio.timeout(20):
        mine = await client.register(spec())
        assert await anext(events) == Added(mine)
        # Dynamo replaces it in a second `register`; here that is an error, and `update` does it.
        moved = EndpointSpec("ns", "comp", "ep", transport=Transport.tcp("127.0.0.1:9000"))
        with pytest.raises(AlreadyRegisteredError):
            await client.register(moved)
        changed = await client.update(mine, transport=moved.transport)
        assert await anext(events) == Added(changed)
        assert await client.list(endpoints("ns")) == [changed]


async def test_a_value_that_cannot_be_read_keeps_the_known_instance(registry: Registry) -> None:
    owner, client = await registry.join(lease_ttl=None), await registry.join()
    mine = await owner.register(spec())
    bucket = (await registry.store()).bucket("v1_instances")
    async with client.view(endpoints("ns")) as view, asyncio.timeout(20):
        assert list(view) == [mine]
        found = await bucket.get(key_of(mine.id))
        assert found is not None
        await bucket.replace(Write(found.key, b"not json", None, "x"), revision=found.revision)
        other = await owner.register(spec(endpoint="other"))
        await eventually(lambda: other in view)
        assert mine in view


async def test_a_watch_reports_what_went_and_what_came_and_nothing_twice(registry: Registry) -> None:
    first, second, third = [await registry.join(instance_id=number) for number in (1, 2, 3)]
    client = await registry.join()
    gone, stays = await first.register(spec()), await second.register(spec())
    async with client.list_and_watch(endpoints("ns", "comp")) as events, asyncio.timeout(30):
        assert {await anext(events), await anext(events)} == {Added(gone), Added(stays)}
        await first.unregister(gone)
        comes = await third.register(spec())
        reported = [await anext(events), await anext(events)]
        assert [one.id for one in reported if isinstance(one, Removed)] == [gone.id]
        assert [one for one in reported if isinstance(one, Added)] == [Added(comes)]


@pytest.mark.parametrize(
    ("kind", "id"),
    [
        (Kind.EVENT_CHANNEL, EventChannelInstanceId(HARD, "kv.events/>", 0xFEED)),
        (Kind.EVENT_SOURCE, EventSourceInstanceId(HARD, "kv.events/>", 0xFEED)),
    ],
)
def test_ids_with_reserved_characters_come_back_from_their_keys(
    kind: Kind, id: EventChannelInstanceId | EventSourceInstanceId
) -> None:
    assert parse_key(kind, key_of(id)) == id
    # The segments of a path hold no character that means something in a path or a subject.
    assert "ns.with/slash" not in str(id)
    assert not set(key_of(id)) & set("*> %")


async def test_channels_of_two_endpoints_with_hard_names_stay_apart(registry: Registry) -> None:
    scopes = [Scope.endpoint("ns/one", "worker.component", name) for name in ("a/*", "b/>")]
    one, two = await registry.join(instance_id=1), await registry.join(instance_id=2)
    made = []
    for client, scope in zip((one, two), scopes, strict=True):
        zmq = Transport("Zmq", {"endpoint": f"tcp://127.0.0.1:{5000 + client.instance_id}"})
        made.append(await client.register(EventChannelSpec(scope, "kv/events", transport=zmq)))
    assert await one.list(event_channels(scopes[0], "kv/events")) == [made[0]]
    await one.unregister(made[0])
    assert await one.list(event_channels(scopes[0], "kv/events")) == []
    assert await one.list(event_channels(scopes[1], "kv/events")) == [made[1]]


async def test_a_source_cannot_change_by_registering_it_again(registry: Registry) -> None:
    def source(worker: int) -> EventSourceSpec:
        return EventSourceSpec(DECODE, "kv/events", metadata={"worker_id": worker, "dp_rank": 0})

    client, other = await registry.join(instance_id=100), await registry.join(instance_id=205)
    first = await client.register(source(7))
    assert await client.register(source(7)) == first
    with pytest.raises(AlreadyRegisteredError):
        await client.register(source(8))
    assert await client.list(event_sources(DECODE, "kv/events")) == [first]
    second = await other.register(source(7))
    assert await client.list(event_sources(DECODE, "kv/events")) == [first, second]
    async with client.list_and_watch(event_sources(DECODE, "kv/events")) as events, asyncio.timeout(20):
        assert [await anext(events), await anext(events)] == [Added(first), Added(second)]
        await client.unregister(first)
        event: Any = await anext(events)
        # The removal names the one publisher that went.
        assert (type(event), event.id) == (Removed, EventSourceInstanceId(DECODE, "kv/events", 100))
    assert await client.list(event_sources()) == [second]


async def test_default_ids_fit_a_double(registry: Registry) -> None:
    client = await registry.join()
    assert 0 < client.instance_id < 2**53
    mine = await client.register(spec())
    assert isinstance(mine, EndpointInstance)
    assert int(float(mine.instance_id)) == mine.instance_id
