"""Many instances that lose their leases at once do not empty a picker. On both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import natsdisc
from natsdisc import (
    EndpointInstance,
    EndpointSpec,
    InvalidValueError,
    ManualClock,
    MemoryStore,
    NoInstanceError,
    Transport,
    View,
    endpoints,
)
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0
LEASE, GRACE = 2.0, 1.0
KEYS = [f"user-{number}" for number in range(200)]


def spec(name: str = "ep", **metadata: object) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"), metadata=metadata)


def picked(view: View[EndpointInstance]) -> set[EndpointInstance]:
    return {view.pick() for _ in range(60)} | {view.pick(key) for key in KEYS}


async def test_ten_leases_that_lapse_at_once(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=0.1)
    for number in range(10):
        await service.register(spec(f"ep{number}"))
    async with (
        client.view(endpoints()) as view,
        client.view(endpoints(), panic_threshold=0) as calm,
        client.view(endpoints(), where=lambda one: one.endpoint == "ep3") as narrow,
    ):
        there = set(view)
        by_key = {key: view.pick(key) for key in KEYS}
        assert not view.panicking
        await crash(service)
        await eventually(lambda: not len(view), PATIENCE)
        assert view.panicking
        assert view.instances == ()
        assert picked(view) == there
        assert by_key == {key: view.pick(key) for key in KEYS}  # a key stays where it was
        async with view.using() as one:
            assert one in there
        assert not calm.panicking
        assert not narrow.panicking  # one crash of one instance
        for quiet in (calm, narrow):
            with pytest.raises(NoInstanceError):
                quiet.pick()
        assert client.stats().panics == 1

        back = await registry.join(instance_id=service.instance_id)
        returned = [await back.register(spec(f"ep{number}")) for number in range(5)]
        await view.wait_for(5, timeout=PATIENCE)
        assert not view.panicking
        assert picked(view) == set(returned)


class TestOnAClock:
    @pytest.fixture
    async def fleet(self) -> AsyncIterator[Fleet]:
        fleet = Fleet()
        yield fleet
        for discovery in (*fleet.services, fleet.client):
            await discovery.close()

    async def test_one_crash_of_one_instance_does_nothing(self, fleet: Fleet) -> None:
        await fleet.start(3)
        async with fleet.client.view(endpoints()) as view:
            await fleet.crash(1)
            assert len(view) == 2
            assert not view.panicking
            assert picked(view) == set(view)

    async def test_lost_ones_that_failed_come_last(self, fleet: Fleet) -> None:
        await fleet.start(6)
        async with fleet.client.view(endpoints()) as view:
            there = view.instances
            view.report_failure(there[0].id)
            await fleet.crash(5)
            lost = there[:5]
            assert view.panicking
            view.report_failure(lost[1].id)
            assert picked(view).isdisjoint({lost[1]})
            assert picked(view) <= set(there)
            for one in there:
                view.report_failure(one.id)
            assert picked(view) == {there[5]}  # all failed: the one that is there
            await fleet.clock.advance(30)
            assert picked(view) == set(there)

    async def test_a_lost_one_that_is_unregistered_is_picked_no_more(self, fleet: Fleet) -> None:
        await fleet.start(5)
        async with fleet.client.view(endpoints()) as view:
            there = view.instances
            await fleet.crash(4)
            assert picked(view) == set(there)
            fleet.tell_unregistered(there[0])
            assert view.panicking
            assert picked(view) == set(there[1:])
            fleet.tell_unregistered(there[1])
            fleet.tell_unregistered(there[2])
            assert not view.panicking
            assert picked(view) == {there[4]}

    async def test_it_ends_by_itself(self, fleet: Fleet) -> None:
        await fleet.start(5)
        async with fleet.client.view(endpoints()) as view:
            await fleet.crash(5)
            assert len(picked(view)) == 5
            await fleet.clock.advance(121)
            assert not view.panicking
            with pytest.raises(NoInstanceError):
                view.pick()
            assert not view._choice.losses

    async def test_nothing_is_left_of_failures_of_lost_ones(self, fleet: Fleet) -> None:
        await fleet.start(5)
        async with fleet.client.view(endpoints()) as view:
            for one in view.instances:
                view.report_failure(one.id)
            await fleet.crash(5)
            await fleet.clock.advance(121)
            assert not view.panicking
            assert not view._choice.ejections

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), True, "half", None])
    async def test_thresholds_that_make_no_sense(self, fleet: Fleet, wrong: object) -> None:
        with pytest.raises(InvalidValueError, match="panic_threshold"):
            fleet.client.view(endpoints(), panic_threshold=wrong)  # type: ignore[call-overload]


class Fleet:
    """Processes with one instance each, on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.client = natsdisc.Discovery(self.store, expiry_grace=GRACE)
        self.services: list[natsdisc.Discovery] = []

    async def start(self, count: int) -> None:
        for number in range(count):
            service = natsdisc.Discovery(self.store, instance_id=number, lease_ttl=LEASE)
            self.services.append(service)
            await service.register(spec())

    async def crash(self, count: int) -> None:
        """Crash the first ones, and wait until their leases and the grace are over."""
        for _ in range(count):
            await crash(self.services.pop(0))
        await self.clock.advance(LEASE + GRACE)
        await asyncio.sleep(0)

    def tell_unregistered(self, instance: EndpointInstance) -> None:
        """Report a tombstone of an instance that is gone, as a server does after `natsdisc prune`."""
        bucket = self.store.bucket("v1_instances")
        for reader in bucket._readers:
            reader._sink.delete(natsdisc.keys.key_of(instance.id), natsdisc.RemovalReason.UNREGISTERED)
