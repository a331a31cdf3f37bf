"""What a Discovery does, the same on both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    Added,
    AlreadyRegisteredError,
    EndpointInstanceId,
    EndpointSpec,
    InvalidIdError,
    InvalidNameError,
    InvalidQueryError,
    InvalidValueError,
    ModelCardInstanceId,
    ModelSpec,
    RemovalReason,
    Removed,
    Transport,
    endpoints,
    models,
)
from natsdisc.store import Write

from .conftest import Registry

PATIENCE = 10.0
AWKWARD = ["a.b", "a b", "*", ">", "a/b", "a=b", "%2E", "\x00\x1f\x7f", "🦊", "ns.>", "=2E", "ß" * 40]


def endpoint(
    namespace: str = "ns", component: str = "comp", name: str = "ep", at: str = "addr"
) -> EndpointSpec:
    return EndpointSpec(namespace, component, name, transport=Transport.nats(at))


async def next_event(watch: natsdisc.Watch) -> natsdisc.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


# The seed's three tests.


async def test_register_endpoint(registry: Registry) -> None:
    discovery = await registry.join(instance_id=0x2A)
    instance = await discovery.register(endpoint())
    assert instance.id == EndpointInstanceId("ns", "comp", "ep", 42)
    assert str(instance.id) == "ns/comp/ep/2a"
    assert await discovery.list(endpoints()) == [instance]


async def test_list_by_all_namespace_and_component(registry: Registry) -> None:
    discovery = await registry.join()
    places = [
        ("ns1", "comp1", "ep1"),
        ("ns1", "comp1", "ep2"),
        ("ns1", "comp2", "ep1"),
        ("ns10", "comp1", "ep1"),
    ]
    for place in places:
        await discovery.register(endpoint(*place))

    async def listed(*names: str) -> list[tuple[str, str, str]]:
        return [(i.namespace, i.component, i.endpoint) for i in await discovery.list(endpoints(*names))]

    assert await listed() == places
    assert await listed("ns1") == places[:3]
    assert await listed("ns1", "comp1") == places[:2]
    assert await listed("ns1", "comp1", "ep1") == places[:1]
    assert await listed("ns") == []


async def test_watch_sees_added_and_removed(registry: Registry) -> None:
    discovery = await registry.join(instance_id=0xFFFF_FFFF_FFFF_FFFF)
    async with discovery.list_and_watch(models()) as events:
        await events.synced()
        card = await discovery.register(ModelSpec("ns", "comp", "ep", card={"a": 1}, model_suffix="lora/1"))
        assert await next_event(events) == Added(card)
        await discovery.unregister(card)
        removed = await next_event(events)
    id = ModelCardInstanceId("ns", "comp", "ep", 0xFFFF_FFFF_FFFF_FFFF, "lora/1")
    assert removed == Removed(id, RemovalReason.UNREGISTERED)
    assert isinstance(removed, Removed)
    assert removed.last == card


# Registering.


async def test_the_same_spec_again_returns_the_same_instance(registry: Registry) -> None:
    discovery = await registry.join()
    first = await discovery.register(endpoint())
    assert await discovery.register(endpoint()) == first
    assert len(discovery.registrations) == 1
    assert await discovery.list(endpoints()) == [first]


async def test_another_value_under_the_same_id_is_already_registered(registry: Registry) -> None:
    one, other = await registry.join(instance_id=7), await registry.join(instance_id=7)
    first = await one.register(endpoint(at="one"))
    for discovery in (one, other):
        with pytest.raises(AlreadyRegisteredError) as caught:
            await discovery.register(endpoint(at="two"))
        assert caught.value.existing == first
    assert await one.list(endpoints()) == [first]
    assert other.registrations == ()


async def test_the_same_value_from_another_process_counts_once(registry: Registry) -> None:
    one, other = await registry.join(instance_id=7), await registry.join(instance_id=7)
    assert await one.register(endpoint()) == await other.register(endpoint())
    assert len(await one.list(endpoints())) == 1


async def test_registering_over_a_tombstone(registry: Registry) -> None:
    one, other = await registry.join(instance_id=7), await registry.join(instance_id=7)
    await one.unregister(await one.register(endpoint(at="one")))
    again = await other.register(endpoint(at="two"))
    assert await one.list(endpoints()) == [again]


async def test_of_a_hundred_tasks_registering_one_id_exactly_one_wins(registry: Registry) -> None:
    discoveries = [await registry.join(instance_id=7) for _ in range(5)]
    attempts = [
        discoveries[number % len(discoveries)].register(endpoint(at=f"addr{number}")) for number in range(100)
    ]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, AlreadyRegisteredError)]
    assert len(won) == 1
    assert len(lost) == 99
    assert await discoveries[0].list(endpoints()) == won
    assert all(error.existing == won[0] for error in lost)


async def test_what_register_returns_is_what_others_read(registry: Registry) -> None:
    discovery = await registry.join()
    card = await discovery.register(ModelSpec("ns", "comp", "ep", card={"tuple": (1, 2)}))
    assert [card] == await discovery.list(models())


@pytest.mark.parametrize("name", AWKWARD)
async def test_awkward_names_work_everywhere(registry: Registry, name: str) -> None:
    discovery = await registry.join()
    beside = await discovery.register(endpoint(f"{name}x", name, name))
    async with discovery.list_and_watch(models(name, name, name)) as events:
        await events.synced()
        card = await discovery.register(ModelSpec(name, name, name, card=name, model_suffix=name))
        assert await next_event(events) == Added(card)
        mine = await discovery.register(endpoint(name, name, name))
        assert await discovery.list(endpoints(name, name, name)) == [mine]
        assert await discovery.list(endpoints(name)) == [mine]
        assert sorted(await discovery.list(endpoints()), key=str) == sorted([mine, beside], key=str)
        await discovery.unregister(card.id)
        assert await next_event(events) == Removed(card.id, RemovalReason.UNREGISTERED)


@pytest.mark.parametrize("instance_id", [0, 1, 0x10, 2**63, 2**64 - 1])
async def test_ids_are_the_full_u64_range(registry: Registry, instance_id: int) -> None:
    discovery = await registry.join(instance_id=instance_id)
    mine = await discovery.register(endpoint())
    assert (
        [i.id.instance_id for i in await discovery.list(endpoints())] == [instance_id] == [mine.instance_id]
    )


async def test_a_key_at_the_limit_works_and_one_over_is_refused(registry: Registry) -> None:
    discovery = await registry.join(instance_id=1)
    fits = 1848 - len(".c.e.1")
    mine = await discovery.register(endpoint("n" * fits, "c", "e"))
    async with discovery.list_and_watch(endpoints("n" * fits, "c", "e")) as events:
        assert await next_event(events) == Added(mine)
    assert await discovery.list(endpoints("n" * fits)) == [mine]
    with pytest.raises(InvalidNameError, match="1849 bytes"):
        await discovery.register(endpoint("n" * (fits + 1), "c", "e"))
    with pytest.raises(InvalidNameError):
        await discovery.list(endpoints("n" * 5000))
    with pytest.raises(InvalidNameError):
        discovery.list_and_watch(endpoints("n" * 5000))


# Unregistering and updating.


async def test_unregister_is_idempotent(registry: Registry) -> None:
    one, other = await registry.join(), await registry.join()
    await other.unregister(EndpointInstanceId("ns", "comp", "ep", 1))  # not even a bucket
    mine = await one.register(endpoint())
    await other.unregister(mine)
    await one.unregister(mine.id)
    await one.unregister(mine.id)
    assert await one.list(endpoints()) == []
    assert one.registrations == ()


async def test_update_is_an_added_on_a_live_id(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(endpoint(at="one"))
    async with discovery.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        moved = await discovery.update(mine, transport=Transport.tcp("host:1"), metadata={"zone": "a"})
        assert await next_event(events) == Added(moved)
        assert moved == dataclasses.replace(mine, transport=Transport.tcp("host:1"), metadata={"zone": "a"})
        assert await discovery.list(endpoints()) == [moved]
        again = await discovery.update(moved, metadata={})
        assert await next_event(events) == Added(again)
    assert discovery.registrations[0].instance == again


async def test_update_loses_against_another_writer(registry: Registry) -> None:
    one, other = await registry.join(), await registry.join()
    mine = await one.register(endpoint(at="one"))
    theirs = await other.update(mine, transport=Transport.nats("two"))
    with pytest.raises(natsdisc.ConflictError):
        await one.update(mine, transport=Transport.nats("three"))
    with pytest.raises(natsdisc.ConflictError):
        await other.update(mine, transport=Transport.nats("four"))
    assert await one.list(endpoints()) == [theirs]


async def test_update_of_what_is_not_there_is_a_conflict(registry: Registry) -> None:
    one, other = await registry.join(), await registry.join()
    mine = await one.register(endpoint())
    await one.unregister(mine)
    with pytest.raises(natsdisc.ConflictError):
        await other.update(mine, metadata={"a": 1})
    assert await one.list(endpoints()) == []


async def test_update_takes_only_the_fields_of_its_kind(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(endpoint())
    with pytest.raises(InvalidValueError, match="card"):
        await discovery.update(mine, card={})


# Watching.


async def test_a_watch_before_the_first_registration(registry: Registry) -> None:
    watcher = await registry.join()
    async with watcher.list_and_watch(endpoints("ns")) as events:
        async with asyncio.timeout(PATIENCE):
            await events.synced()
        mine = await (await registry.join()).register(endpoint())
        assert await next_event(events) == Added(mine)


async def test_closing_the_discovery_ends_its_watches_quietly(registry: Registry) -> None:
    discovery = await registry.join()
    watch = discovery.list_and_watch(endpoints())
    await watch.synced()
    waiting = asyncio.create_task(anext(watch, "the end"))
    await asyncio.sleep(0)
    await discovery.close()
    assert await waiting == "the end"


async def test_two_watches_of_one_query_both_see_everything(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(endpoint())
    async with discovery.list_and_watch(endpoints()) as first:
        assert await next_event(first) == Added(mine)
        async with discovery.list_and_watch(endpoints()) as second:
            await second.synced()
            assert await next_event(second) == Added(mine)
        another = await discovery.register(endpoint(name="another"))
        assert await next_event(first) == Added(another)


async def test_a_watch_sees_only_its_query(registry: Registry) -> None:
    discovery = await registry.join()
    async with discovery.list_and_watch(endpoints("ns1", "comp")) as events:
        await events.synced()
        for place in (("ns10", "comp"), ("ns1", "comp2"), ("ns", "comp")):
            await discovery.register(endpoint(*place))
        await discovery.register(ModelSpec("ns1", "comp", "ep", card={}))
        mine = await discovery.register(endpoint("ns1", "comp"))
        assert await next_event(events) == Added(mine)


# Rubbish.

RUBBISH = {
    "ns.comp.ep.1": b"not json",
    "ns.comp.ep.2": b"[]",
    "ns.comp.ep.3": b'{"type":"Endpoint"}',
    "ns.comp.ep.4": b'{"type":"Endpoint","component":"comp","endpoint":"ep","namespace":"ns","instance_id":5,'
    b'"transport":{"nats_tcp":"another identity than its key"}}',
    "ns.comp.ep.0x10": b"{}",
    "ns.comp": b"{}",
    "ns.comp.ep.1.2.3": b"{}",
    "ns.comp.ep.6": b"",
    "ns.comp.ep.7": b'{"type":"Endpoint","component":1,"endpoint":null,"namespace":"ns","instance_id":"7"}',
}


async def test_rubbish_is_skipped_counted_and_warned_about_once_a_key(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = (await registry.store()).bucket("v1_instances")
    for key, value in RUBBISH.items():
        await bucket.create(Write(key, value, owner="foreign"))
    discovery = await registry.join()
    with caplog.at_level(logging.WARNING, "natsdisc"):
        async with discovery.list_and_watch(endpoints()) as events:
            await events.synced()
            mine = await discovery.register(endpoint(name="good"))
            assert await next_event(events) == Added(mine)
            await bucket.create(Write("ns.comp.ep.8", b"late rubbish", owner="foreign"))
            another = await discovery.register(endpoint(name="better"))
            assert await next_event(events) == Added(another)
        assert await discovery.list(endpoints()) == [another, mine]
    skipped = [record.getMessage() for record in caplog.records if "skipping" in record.getMessage()]
    assert len(skipped) == len(RUBBISH) + 1
    assert all(any(f"skipping {key} in" in message for message in skipped) for key in RUBBISH)
    assert discovery.stats().invalid == 2 * (len(RUBBISH) + 1)


# Bad input: an error of its own, and nothing half done.


@pytest.mark.parametrize("name", ["", "\ud800"])
async def test_bad_names(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidNameError):
        endpoint(namespace=name)
    with pytest.raises(InvalidNameError):
        endpoints("ns", name)


@pytest.mark.parametrize("instance_id", [-1, 2**64, True, 1.0, "1"])
async def test_bad_ids(registry: Registry, instance_id: Any) -> None:
    with pytest.raises(InvalidIdError):
        await registry.join(instance_id=instance_id)


async def test_a_query_with_a_hole() -> None:
    with pytest.raises(InvalidQueryError, match="namespace"):
        endpoints(None, "comp")


@pytest.mark.parametrize("card", [object(), {1, 2}, b"bytes", {"deep": [object()]}, "\ud800"])
async def test_a_card_without_a_json_form(registry: Registry, card: Any) -> None:
    discovery = await registry.join()
    with pytest.raises(InvalidValueError, match="no JSON form"):
        await discovery.register(ModelSpec("ns", "comp", "ep", card=card))
    assert await discovery.list(models()) == []
    assert discovery.registrations == ()


async def test_a_payload_over_the_limit_is_refused_before_it_is_sent(registry: Registry) -> None:
    discovery = await registry.join()
    with pytest.raises(natsdisc.PayloadTooLargeError, match="bytes"):
        await discovery.register(ModelSpec("ns", "comp", "ep", card="x" * (1024 * 1024)))
    mine = await discovery.register(ModelSpec("ns", "comp", "ep", card="x" * (1000 * 1000)))
    with pytest.raises(natsdisc.PayloadTooLargeError):
        await discovery.update(mine, card="y" * (1024 * 1024))
    assert await discovery.list(models()) == [mine]


@pytest.mark.parametrize("ttl", [0, 0.5, -1, float("nan"), float("inf"), True, "10"])
async def test_bad_lease_ttls(registry: Registry, ttl: Any) -> None:
    with pytest.raises(InvalidValueError, match="lease_ttl"):
        await registry.join(lease_ttl=ttl)
    discovery = await registry.join()
    with pytest.raises(InvalidValueError, match="lease_ttl"):
        await discovery.register(endpoint(), lease_ttl=ttl)
    assert await discovery.list(endpoints()) == []


async def test_a_closed_discovery(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(endpoint())
    await discovery.close()
    await discovery.close()
    for call in (
        lambda: discovery.register(endpoint()),
        lambda: discovery.unregister(mine),
        lambda: discovery.update(mine, metadata={}),
        lambda: discovery.list(endpoints()),
    ):
        with pytest.raises(natsdisc.ClosedError):
            await call()
    with pytest.raises(natsdisc.ClosedError):
        discovery.list_and_watch(endpoints())
    assert await (await registry.join()).list(endpoints()) == []


async def test_close_unregisters_what_this_process_registered_and_nothing_else(registry: Registry) -> None:
    one, other = await registry.join(), await registry.join()
    for number in range(20):
        await one.register(endpoint(name=f"ep{number}"))
    stays = await other.register(endpoint(name="stays"))
    async with other.list_and_watch(endpoints()) as events:
        await events.synced()
        assert {type(await next_event(events)) for _ in range(21)} == {Added}
        await one.close()
        assert await other.list(endpoints()) == [stays]
        gone = [await next_event(events) for _ in range(20)]
    assert [event.reason for event in gone if isinstance(event, Removed)] == [RemovalReason.UNREGISTERED] * 20
