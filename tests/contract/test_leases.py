"""Leases: a crash is seen, a short absence is not, and what is taken away comes back. On both stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, ModelSpec, RemovalReason, Removed, State, Transport, endpoints
from natsdisc.errors import DiscoveryError
from natsdisc.store import Lease
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0


def spec(name: str = "ep", at: str = "addr") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats(at))


async def next_event(watch: natsdisc.Watch) -> natsdisc.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


async def test_a_crash_is_seen_as_expired(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    async with client.list_and_watch(endpoints()) as events:
        mine = await service.register(spec())
        assert await next_event(events) == Added(mine)
        await crash(service)
        assert await next_event(events) == Removed(mine.id, RemovalReason.EXPIRED)
    assert await client.list(endpoints()) == []


async def test_a_renewed_lease_says_nothing(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    mine = await service.register(spec())
    async with client.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        await eventually(lambda: service.stats().heartbeats >= 8)  # more than two ttls
        assert not events._queue._pending
        assert await client.list(endpoints()) == [mine]
    assert service.stats().fence_failures == 0


async def test_a_ttl_of_its_own_for_one_registration(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=None), await registry.join()
    stays = await service.register(spec("stays"))
    goes = await service.register(spec("goes"), lease_ttl=1)
    assert [r.lease_ttl for r in service.registrations] == [None, 1]
    async with client.list_and_watch(endpoints()) as events:
        assert {await next_event(events), await next_event(events)} == {Added(stays), Added(goes)}
        await crash(service)
        assert await next_event(events) == Removed(goes.id, RemovalReason.EXPIRED)
    assert await client.list(endpoints()) == [stays]


async def test_an_expiry_is_kept_back_for_the_grace(registry: Registry) -> None:
    first = await registry.join(instance_id=1, lease_ttl=1)
    client = await registry.join(expiry_grace=60)
    mine = await first.register(spec())
    async with client.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        await crash(first)
        await eventually(lambda: emptied(client))
        assert not events._queue._pending
        second = await registry.join(instance_id=1)
        assert await second.register(spec()) == mine  # back within the grace: nobody hears of it
        other = await second.register(spec("other"))
        assert await next_event(events) == Added(other)


async def emptied(discovery: natsdisc.Discovery) -> bool:
    return await discovery.list(endpoints()) == []


async def test_the_same_again_without_a_lease_keeps_the_one_it_has(registry: Registry) -> None:
    service = await registry.join(lease_ttl=1)
    mine = await service.register(spec())
    assert await service.register(spec(), lease_ttl=None) == mine
    beats = service.stats().heartbeats
    await eventually(lambda: service.stats().heartbeats > beats + 6)
    assert await service.list(endpoints()) == [mine]


async def test_the_lease_of_a_dead_one_does_not_end_the_next_one(registry: Registry) -> None:
    first = await registry.join(instance_id=1, lease_ttl=1)
    mine = await first.register(spec())
    await crash(first)
    second, client = await registry.join(instance_id=1, lease_ttl=None), await registry.join(lease_ttl=1)
    assert await second.register(spec()) == mine
    await client.register(spec("other"))
    await eventually(lambda: client.stats().heartbeats > 6)  # two ttls
    assert mine in await client.list(endpoints())


async def test_the_same_value_without_a_lease_takes_the_place_of_a_leased_one(registry: Registry) -> None:
    """Nothing is removed: not when it is registered, and not while the other process renews its lease."""
    first = await registry.join(instance_id=1, lease_ttl=1)
    client = await registry.join(expiry_grace=0)
    mine = await first.register(spec())
    async with client.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        second = await registry.join(instance_id=1, lease_ttl=None)
        assert await second.register(spec()) == mine
        beats = first.stats().renewals.count
        await eventually(lambda: first.stats().renewals.count >= beats + 6)
        assert [one.state for one in first.registrations] == [State.ACTIVE]
        other = await second.register(spec("other"))
        assert await next_event(events) == Added(other)
        # The process that holds it without a lease alone decides when it ends.
        await first.unregister(mine)
        assert await next_event(events) == Removed(mine.id, RemovalReason.UNREGISTERED)


async def test_update_goes_on_under_the_same_lease(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    mine = await service.register(spec(at="one"))
    async with client.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        moved = await service.update(mine, transport=Transport.nats("two"))
        assert await next_event(events) == Added(moved)
        beats = service.stats().heartbeats
        await eventually(lambda: service.stats().heartbeats >= beats + 6)
        assert not events._queue._pending
        assert service.stats().fence_failures == 0
        await crash(service)
        assert await next_event(events) == Removed(mine.id, RemovalReason.EXPIRED)


async def test_what_a_foreign_client_deleted_comes_back(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    mine = await service.register(spec())
    async with client.list_and_watch(endpoints()) as events:
        assert await next_event(events) == Added(mine)
        await client.unregister(mine)
        assert await next_event(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
        assert await next_event(events) == Added(mine)
    assert await client.list(endpoints()) == [mine]
    await eventually(lambda: service.registrations[0].state is State.ACTIVE)
    assert service.stats().reregistrations == 1


async def test_another_owner_of_the_id_means_lost(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[natsdisc.Registration] = []
    one = await registry.join(instance_id=1, lease_ttl=1, on_lost=told.append)
    two = await registry.join(instance_id=1, lease_ttl=1)
    mine = await one.register(spec(at="one"))
    await two.unregister(mine)
    theirs = await two.register(spec(at="two"))
    await eventually(lambda: told)
    [registration] = one.registrations
    assert told == [registration]
    assert registration.state is State.LOST
    assert any(
        "is lost" in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR
    )
    await one.unregister(mine)
    assert one.registrations == ()
    assert await two.list(endpoints()) == [theirs]
    assert two.registrations[0].state is State.ACTIVE


async def test_a_failing_on_lost_breaks_nothing(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: natsdisc.Registration) -> None:
        raise RuntimeError("the user's mistake")

    one = await registry.join(instance_id=1, lease_ttl=1, on_lost=fail)
    two = await registry.join(instance_id=1, lease_ttl=None)
    mine, kept = await one.register(spec(at="one")), await one.register(spec("kept"))
    await two.unregister(mine)
    await two.register(spec(at="two"))
    await eventually(lambda: one.registrations[0].state is State.LOST)
    beats = one.stats().heartbeats
    await eventually(lambda: one.stats().heartbeats > beats + 3)
    assert kept in await two.list(endpoints())
    assert "the user's mistake" in caplog.text


async def test_what_another_client_updated_is_kept(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    mine = await service.register(spec())
    theirs = await client.drain(mine)
    await eventually(lambda: service.registrations[0].instance == theirs)
    assert service.registrations[0].state is State.ACTIVE
    beats = service.stats().heartbeats
    await eventually(lambda: service.stats().heartbeats > beats + 4)
    assert await client.list(endpoints()) == [theirs]
    await service.unregister(mine)
    assert await client.list(endpoints()) == []


async def test_unregistering_what_another_client_just_updated(registry: Registry) -> None:
    service, client = await registry.join(), await registry.join()
    mine = await service.register(spec())
    await client.drain(mine)
    await service.unregister(mine)
    assert await client.list(endpoints()) == []


async def test_a_lost_registration_can_be_made_again(registry: Registry) -> None:
    one = await registry.join(instance_id=1, lease_ttl=1)
    two = await registry.join(instance_id=1, lease_ttl=None)
    mine = await one.register(spec(at="one"))
    await two.unregister(mine)
    theirs = await two.register(spec(at="two"))
    await eventually(lambda: one.registrations[0].state is State.LOST)
    await two.unregister(theirs)
    assert await one.register(spec(at="one")) == mine
    assert [r.state for r in one.registrations] == [State.ACTIVE]


async def test_a_thousand_registrations_share_one_timer(registry: Registry) -> None:
    service = await registry.join(lease_ttl=3)
    before = len(asyncio.all_tasks())
    await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(1000)))
    most = 0
    while service.stats().heartbeats < 2000:
        most = max(most, len(asyncio.all_tasks()) - before)
        await asyncio.sleep(0.01)
    assert most < 50
    assert service.stats().fence_failures == 0
    assert len(await service.list(endpoints())) == 1000


async def test_what_falls_due_at_once_is_renewed_in_turns(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once the answers would come too late, and everything would be sent again without end."""
    service = await registry.join(lease_ttl=60)
    await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(1_000)))
    bucket = service._store.bucket("v1_instances")
    renew, on_their_way, most = bucket.renew, 0, 0

    async def watched(leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        nonlocal on_their_way, most
        on_their_way += len(leases)
        most = max(most, on_their_way)
        try:
            return await renew(leases)
        finally:
            on_their_way -= len(leases)

    monkeypatch.setattr(bucket, "renew", watched)
    service._registrar._upkeep.renew_all()  # as after a reconnect
    await eventually(lambda: service.stats().renewals.count >= 1_000)
    assert 100 <= most <= 500


async def test_a_model_has_a_lease_too(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join()
    async with client.list_and_watch(natsdisc.models()) as events:
        mine = await service.register(ModelSpec("ns", "comp", "ep", card={"a": 1}, model_suffix="lora"))
        assert await next_event(events) == Added(mine)
        await crash(service)
        assert await next_event(events) == Removed(mine.id, RemovalReason.EXPIRED)
