"""Other clients and bugs interfere with a registration: it is back, and its owner hears why. Both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    Added,
    EndpointInstance,
    EndpointSpec,
    ModelSpec,
    Registration,
    RemovalReason,
    Removed,
    State,
    Status,
    Transport,
    endpoints,
    models,
    wire,
)
from natsdisc.errors import ConflictError, DiscoveryError, InvalidValueError
from natsdisc.lease import MAX_TTL
from natsdisc.store import Lease, Write
from tests.rig import eventually

from .conftest import Registry

BUCKET = "v1_instances"


def spec(name: str = "ep", at: str = "addr", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats(at), metadata=metadata)


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "natsdisc_event", "") == event]


def another(mine: EndpointInstance) -> bytes:
    return wire.dumps(dataclasses.replace(mine, instance_id=mine.instance_id ^ 1))


NOBODYS: dict[str, Callable[[EndpointInstance], bytes]] = {
    "rubbish": lambda mine: b"rubbish",
    "nothing": lambda mine: b"",
    "an answer of the API": lambda mine: b'{"type":"io.nats.jetstream.api.v1.consumer_info_response"}',
    "another id": another,
    "a model": lambda mine: wire.dumps(natsdisc.ModelInstance("ns", "comp", "ep", mine.instance_id, card=1)),
}


class TestValuesOfNobody:
    @pytest.mark.parametrize("what", NOBODYS)
    async def test_a_foreign_update_with_one_is_undone(
        self, registry: Registry, caplog: pytest.LogCaptureFixture, what: str
    ) -> None:
        lost: list[Registration] = []
        service, client = await registry.join(lease_ttl=1, on_lost=lost.append), await registry.join()
        mine = await service.register(spec())
        [held] = service.registrations
        bucket = (await registry.store()).bucket(BUCKET)
        for number in range(1, 4):
            await bucket.replace(Write(held._key, NOBODYS[what](mine), 1.0), revision=held.revision)
            await eventually(lambda: service.stats().reregistrations == number)  # noqa: B023
            assert await client.list(endpoints()) == [mine]
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count > beats + 3)
        assert service.registrations == (held,)
        assert (held.state, held.instance, held.id, lost) == (State.ACTIVE, mine, mine.id, [])
        await eventually(lambda: lines(caplog, "reregistered_overwritten"))

    async def test_one_that_is_there_first_is_written_over(self, registry: Registry) -> None:
        bucket = (await registry.store()).bucket(BUCKET)
        await bucket.create(Write("ns.comp.ep.1", b"rubbish", owner="foreign"))
        service = await registry.join(instance_id=1, lease_ttl=1)
        mine = await service.register(spec())
        assert await service.list(endpoints()) == [mine]

    async def test_one_under_a_foreign_lease_is_written_over(self, registry: Registry) -> None:
        service = await registry.join(instance_id=1, lease_ttl=1)
        mine = await service.register(spec())
        bucket = (await registry.store()).bucket(BUCKET)
        await bucket.delete("ns.comp.ep.1", revision=None)
        await bucket.create(Write("ns.comp.ep.1", b"rubbish", 60.0, "foreign"))
        await eventually(lambda: service.stats().reregistrations)
        assert service.registrations[0].state is State.ACTIVE
        assert await service.list(endpoints()) == [mine]

    async def test_one_goes_with_an_unregistration(self, registry: Registry) -> None:
        service = await registry.join(instance_id=1, lease_ttl=60)
        mine = await service.register(spec())
        bucket = (await registry.store()).bucket(BUCKET)
        revision = service.registrations[0].revision
        await bucket.replace(Write("ns.comp.ep.1", b"rubbish", 60.0), revision=revision)
        await service.unregister(mine)
        assert await bucket.get("ns.comp.ep.1") is None

    async def test_a_plain_value_without_an_owner_does_not_make_it_lost(self, registry: Registry) -> None:
        """A value of the same id is another owner's only under a lease, or where its writer says so."""
        service = await registry.join(instance_id=1, lease_ttl=1)
        mine = await service.register(spec())
        bucket = (await registry.store()).bucket(BUCKET)
        theirs = wire.dumps(dataclasses.replace(mine, transport=Transport.nats("evil")))
        found = await bucket.get("ns.comp.ep.1")
        assert found is not None
        await bucket.delete("ns.comp.ep.1", revision=None)
        revision = await bucket.create(Write("ns.comp.ep.1", b"x", owner="foreign"))
        await bucket.replace(Write("ns.comp.ep.1", theirs), revision=revision)
        await eventually(lambda: service.stats().reregistrations)
        assert service.registrations[0].state is State.ACTIVE


class TestUpdates:
    async def test_two_at_once_lose_nothing(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        await asyncio.gather(
            service.update(mine, metadata={"a": 1}), service.update(mine, transport=Transport.tcp("host:1"))
        )
        [now] = await service.list(endpoints())
        assert (now.metadata, now.transport) == ({"a": 1}, Transport.tcp("host:1"))
        assert service.registrations[0].instance == now

    async def test_many_at_once_on_one_metadata(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        await asyncio.gather(
            *(service.drain(mine) for _ in range(10)), service.update(mine, metadata={"b": 1})
        )
        [now] = await service.list(endpoints())
        assert now == dataclasses.replace(mine, metadata={"b": 1}, status=Status.DRAINING)
        assert service.registrations[0].instance == now

    @pytest.mark.parametrize("ttl", [None, 60])
    async def test_the_owners_comes_on_top_of_a_foreign_one(
        self, registry: Registry, caplog: pytest.LogCaptureFixture, ttl: float | None
    ) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        service, client = await registry.join(lease_ttl=ttl), await registry.join()
        mine = await service.register(spec())
        theirs = await client.update(mine, metadata={"weight": 3})
        moved = await service.update(mine, transport=Transport.nats("two"))
        assert moved == dataclasses.replace(theirs, transport=Transport.nats("two"))
        assert await client.list(endpoints()) == [moved]
        assert service.registrations[0].instance == moved
        # The next one finds nothing to adopt.
        again = await service.update(mine, metadata={"weight": 4})
        assert await client.list(endpoints()) == [again]
        assert again.transport == Transport.nats("two")
        await eventually(lambda: lines(caplog, "updated_by_another"))
        assert not [one for one in caplog.records if one.levelno > logging.INFO and one.name != "asyncio"]

    @pytest.mark.parametrize("ttl", [None, 60])
    async def test_one_that_collides_is_a_conflict_once(self, registry: Registry, ttl: float | None) -> None:
        service, client = await registry.join(lease_ttl=ttl), await registry.join()
        mine = await service.register(spec())
        theirs = await client.update(mine, metadata={"weight": 3})
        with pytest.raises(ConflictError, match="metadata"):
            await service.update(mine, metadata={"zone": "a"})
        assert await client.list(endpoints()) == [theirs]
        assert service.registrations[0].instance == theirs
        ours = await service.update(mine, metadata={**theirs.metadata, "zone": "a"})
        assert await client.list(endpoints()) == [ours]

    async def test_after_a_foreign_drain(self, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        states: list[State] = []
        service = await registry.join(lease_ttl=1, on_state=lambda one: states.append(one.state))
        operator = await registry.join()
        mine = await service.register(spec(zone="z"))
        await operator.drain(mine)
        await service.update(mine, transport=Transport.nats("two"))
        [now] = await operator.list(endpoints())
        assert (now.metadata, now.transport.address) == ({"zone": "z"}, "two")
        assert now.status is Status.DRAINING
        [told] = await eventually(lambda: lines(caplog, "drained_by_another"))
        assert told.levelno == logging.INFO
        assert not lines(caplog, "recovering")
        assert states == []

    async def test_an_orderly_foreign_update_is_no_warning(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        states: list[State] = []
        service = await registry.join(lease_ttl=1, on_state=lambda one: states.append(one.state))
        operator = await registry.join()
        mine = await service.register(spec())
        await operator.drain(mine)
        await eventually(lambda: lines(caplog, "drained_by_another"))
        assert states == []
        assert not [one for one in caplog.records if one.levelno > logging.INFO and one.name != "asyncio"]

    async def test_an_update_brings_back_what_was_gone(self, registry: Registry) -> None:
        service, client = await registry.join(lease_ttl=60), await registry.join()
        mine = await service.register(spec())
        await client.unregister(mine)
        moved = await service.update(mine, transport=Transport.nats("two"))
        assert await client.list(endpoints()) == [moved]

    async def test_without_a_lease_what_was_unregistered_stays_away(self, registry: Registry) -> None:
        service, client = await registry.join(lease_ttl=None), await registry.join()
        mine = await service.register(spec())
        await client.unregister(mine)
        with pytest.raises(ConflictError):
            await service.update(mine, transport=Transport.nats("two"))
        assert await client.list(endpoints()) == []

    async def test_of_what_another_writer_wrote(self, registry: Registry) -> None:
        """Another order, blanks, and fields that natsdisc does not know."""
        bucket = (await registry.store()).bucket(BUCKET)
        value = (
            b'{ "namespace":"ns", "type":"Endpoint", "device_type":"cuda", "instance_id":7, '
            b'"component":"comp", "transport":{"tcp":"host:1"}, "endpoint":"ep", "codec":{"a":[1]} }'
        )
        await bucket.create(Write("ns.comp.ep.7", value, owner="foreign"))
        operator = await registry.join()
        [found] = await operator.list(endpoints())
        assert found.extra == {"device_type": "cuda", "codec": {"a": [1]}}
        drained = await operator.drain(found)
        moved = await operator.update(drained, transport=Transport.tcp("host:2"))
        assert await operator.list(endpoints()) == [moved]
        entry = await bucket.get("ns.comp.ep.7")
        assert entry is not None
        assert entry.value == (
            b'{"type":"Endpoint","component":"comp","endpoint":"ep","namespace":"ns","instance_id":7,'
            b'"transport":{"tcp":"host:2"},"status":"draining","device_type":"cuda","codec":{"a":[1]}}'
        )
        with pytest.raises(ConflictError, match="another value"):
            await operator.update(found, transport=Transport.tcp("host:3"))

    async def test_an_owner_keeps_the_fields_that_another_client_added(self, registry: Registry) -> None:
        service, client = await registry.join(lease_ttl=1), await registry.join()
        mine = await service.register(spec())
        [held] = service.registrations
        bucket = (await registry.store()).bucket(BUCKET)
        newer = dataclasses.replace(mine, extra={"device_type": "cuda"})
        await bucket.replace(Write(held._key, wire.dumps(newer), 1.0), revision=held.revision)
        moved = await service.update(mine, transport=Transport.nats("two"))
        assert moved == dataclasses.replace(newer, transport=Transport.nats("two"))
        assert await client.list(endpoints()) == [moved]


class TestTelling:
    async def test_what_was_removed(self, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        told: list[tuple[State, str]] = []
        service = await registry.join(
            lease_ttl=1, on_state=lambda one: told.append((one.state, str(one.error)))
        )
        mine = await service.register(spec())
        await (await registry.join()).unregister(mine)
        await eventually(lambda: len(told) == 2)
        assert [state for state, _ in told] == [State.RECOVERING, State.ACTIVE]
        assert "another client removed it" in told[0][1]
        assert service.registrations[0].error is None
        [line] = await eventually(lambda: lines(caplog, "reregistered_removed"))
        assert line.levelno == logging.WARNING
        assert "removed by another client" in line.getMessage()

    async def test_many_of_one_fate_are_one_line(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, client = await registry.join(lease_ttl=60), await registry.join()
        mine = await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(200)))
        await asyncio.gather(*map(client.unregister, mine))
        began = time.monotonic()
        service._registrar._upkeep.renew_all()
        await eventually(lambda: service.stats().reregistrations == 200, timeout=30)
        await eventually(lambda: lines(caplog, "reregistered_removed"))
        await service.close()  # writes what is still gathered
        told = lines(caplog, "reregistered_removed")
        assert len(told) <= 2 + (time.monotonic() - began) / 5  # one in five seconds
        assert sum(getattr(line, "natsdisc_count", 0) for line in told) == 200

    async def test_a_callback_that_fails_breaks_nothing(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: Registration) -> None:
            raise RuntimeError("the user's mistake")

        service, client = await registry.join(lease_ttl=1, on_state=fail), await registry.join()
        mine = await service.register(spec())
        await client.unregister(mine)
        await eventually(lambda: service.stats().reregistrations)
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count > beats + 2)
        assert "the user's mistake" in caplog.text

    async def test_lost_is_told_too(self, registry: Registry) -> None:
        states: list[State] = []
        one = await registry.join(instance_id=1, lease_ttl=1, on_state=lambda one: states.append(one.state))
        two = await registry.join(instance_id=1, lease_ttl=1)
        mine = await one.register(spec(at="one"))
        await two.unregister(mine)
        await two.register(spec(at="two"))
        await eventually(lambda: states)
        assert states == [State.LOST]
        assert isinstance(one.registrations[0].error, DiscoveryError)
        with pytest.raises(ConflictError, match="lost"):
            await one.update(mine, metadata={"a": 1})
        assert two.registrations[0].state is State.ACTIVE

    async def test_the_revision_grows_with_every_write(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        [held] = service.registrations
        before = held.revision
        await service.update(mine, metadata={"a": 1})
        entry = await (await registry.store()).bucket(BUCKET).get(held._key)
        assert entry is not None
        assert entry.revision == held.revision > before


class TestBugs:
    async def test_one_in_a_renewal_ends_nothing(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = await registry.join(lease_ttl=1)
        mine = await service.register(spec())
        bucket = service._store.bucket(BUCKET)
        renew, failing = bucket.renew, 2

        async def fails(leases: Sequence[Lease]) -> Any:
            nonlocal failing
            failing -= 1
            if failing >= 0:
                raise KeyError("a bug")
            return await renew(leases)

        monkeypatch.setattr(bucket, "renew", fails)
        await eventually(lambda: service.stats().task_failures == 2)
        await eventually(lambda: service.stats().renewals.count > 3)
        assert await service.list(endpoints()) == [mine]
        assert len(lines(caplog, "task_failed")) == 2

    async def test_one_in_registering_again_ends_nothing(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service, client = await registry.join(lease_ttl=1), await registry.join()
        mine = await service.register(spec())
        bucket = service._store.bucket(BUCKET)
        restore, failed = bucket.restore, False

        async def fails(*args: Any, **options: Any) -> Any:
            nonlocal failed
            if not failed:
                failed = True
                raise KeyError("a bug")
            return await restore(*args, **options)

        monkeypatch.setattr(bucket, "restore", fails)
        await client.unregister(mine)
        await eventually(lambda: service.stats().reregistrations)
        assert service.stats().task_failures == 1
        assert await client.list(endpoints()) == [mine]

    async def test_one_in_the_schedule_ends_nothing(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = await registry.join(lease_ttl=1)
        await service.register(spec())
        renewals = service._registrar._upkeep.renewals
        take_due, failed = renewals._take_due, False

        def fails() -> None:
            nonlocal failed
            if not failed:
                failed = True
                raise KeyError("a bug")
            take_due()

        monkeypatch.setattr(renewals, "_take_due", fails)
        await eventually(lambda: service.stats().task_failures)
        await eventually(lambda: service.stats().renewals.count > 2)


class TestQueuedCalls:
    async def test_the_last_of_them_counts(self, registry: Registry) -> None:
        service = await registry.join(lease_ttl=60)
        mine = await service.register(spec())
        calls = [service.update(mine, metadata={}), service.register(spec()), service.unregister(mine)]
        tasks = []
        for call in calls:
            tasks.append(asyncio.create_task(call))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert service.registrations == ()
        assert await service.list(endpoints()) == []


class TestLettingGo:
    async def test_what_was_unregistered_is_not_kept(self, registry: Registry) -> None:
        service = await registry.join(lease_ttl=600)
        for number in range(300):
            card = ModelSpec("ns", "w", "gen", card={"n": number, "blob": "x" * 1_000}, model_suffix="lora")
            mine = await service.register(card)
            [registration] = service.registrations
            gone = weakref.ref(registration)
            del registration
            await service.unregister(mine)
            if number % 100 == 0:
                gc.collect()
                assert gone() is None
        assert len(service._registrar._upkeep.renewals._heap) <= 2 * 64
        assert await service.list(models()) == []

    async def test_nor_an_earlier_time_of_one_that_stays(self, registry: Registry) -> None:
        service = await registry.join(lease_ttl=600)
        await service.register(spec())
        for _ in range(1_000):
            service._registrar._upkeep.renew_all()
        assert len(service._registrar._upkeep.renewals._heap) <= 2 * 64 + 2
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count > beats)

    async def test_held_keys(self, registry: Registry) -> None:
        service = await registry.join(instance_id=1, lease_ttl=60)
        bucket = service._store.bucket(BUCKET)
        mine = await service.register(spec())
        await service.register(ModelSpec("ns", "w", "gen", card=1))
        assert service._registrar.held_keys(bucket) == {"ns.comp.ep.1"}
        await service.unregister(mine)
        assert service._registrar.held_keys(bucket) == set()


class TestLeasesInEntries:
    async def test_an_entry_tells_its_lease(self, registry: Registry) -> None:
        service, client = await registry.join(instance_id=1, lease_ttl=2.5), await registry.join()
        leased = await service.register(spec())
        await service.register(spec("stays"), lease_ttl=None)
        bucket = (await registry.store()).bucket(BUCKET)
        for changed in (leased, await client.update(leased, metadata={"a": 1})):
            del changed
            entry = await bucket.get("ns.comp.ep.1")
            assert entry is not None
            assert (entry.leased, entry.lease_ttl, entry.owner) == (True, 2.5, None)
        entry = await bucket.get("ns.comp.stays.1")
        assert entry is not None
        assert (entry.leased, entry.lease_ttl) == (False, None)
        assert entry.owner == service._registrar._owner

    @pytest.mark.parametrize("ttl", [MAX_TTL + 1, 1e9, 1e300, 10**400])
    async def test_a_lease_is_no_longer_than_a_year(self, registry: Registry, ttl: float) -> None:
        with pytest.raises(InvalidValueError, match="lease_ttl"):
            await registry.join(lease_ttl=ttl)

    async def test_the_longest_lease_works(self, registry: Registry) -> None:
        service = await registry.join(lease_ttl=MAX_TTL)
        mine = await service.register(spec())
        service._registrar._upkeep.renew_all()
        await eventually(lambda: service.stats().renewals.count)
        assert await service.list(endpoints()) == [mine]
        await service.unregister(mine)


async def test_a_watcher_sees_no_more_than_a_gap_of_rubbish(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=60)
    mine = await service.register(spec())
    [held] = service.registrations
    bucket = (await registry.store()).bucket(BUCKET)
    async with client.list_and_watch(endpoints()) as events:
        async with asyncio.timeout(10):
            assert await anext(events) == Added(mine)
            await bucket.replace(Write(held._key, b"rubbish", 1.0), revision=held.revision)
            await eventually(lambda: service.stats().reregistrations)
            await service.unregister(mine)
            assert await anext(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
