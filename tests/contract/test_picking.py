"""Which instance a view picks, and which it sets aside. On both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import pytest

import natsdisc
import natsdisc.balance
from natsdisc import (
    EndpointInstance,
    ManualClock,
    MemoryStore,
    ModelSpec,
    NoInstanceError,
    Transport,
    View,
    endpoints,
)
from natsdisc.balance import LeastOutstanding, PreferZone, Random, Weighted
from tests.rig import eventually

from .conftest import Registry
from .views import PATIENCE, metadata, spec, until

_Instance = TypeVar("_Instance", bound=natsdisc.Instance)
# The first rest of a reported instance, and the longest (seconds); chance takes up to half away.
FIRST_REST, LONGEST_REST = 0.5, 30.0


class TestPicking:
    async def test_round_robin_by_default(self, registry: Registry) -> None:
        discovery = await registry.join()
        for number in range(3):
            await discovery.register(spec(f"ep{number}"))
        async with discovery.view(endpoints()) as view:
            picked = [view.pick() for _ in range(6)]
            at = view.instances.index(picked[0])
            assert picked == [*view.instances[at:], *view.instances[:at]] * 2

    @pytest.mark.parametrize("make", [natsdisc.balance.RoundRobin, lambda: PreferZone("a")])
    async def test_one_balance_for_two_views(self, registry: Registry, make: Any) -> None:
        """Requests that pick from both in turn reach every instance of both."""
        discovery, balance = await registry.join(), make()
        for name in "abcd":
            await discovery.register(spec(name, zone="a"))
        async with (
            discovery.view(endpoints(), balance=balance) as one,
            discovery.view(endpoints("ns"), balance=balance) as two,
        ):
            await eventually(lambda: len(one) == len(two) == 4)
            picked = [(one.pick(), two.pick()) for _ in range(4)]
            assert {first for first, _ in picked} == set(one.instances)
            assert {second for _, second in picked} == set(two.instances)

    async def test_work_in_flight_counts_in_all_views_of_one_balance(self, registry: Registry) -> None:
        discovery, balance = await registry.join(), LeastOutstanding()
        for name in "ab":
            await discovery.register(spec(name))
        async with (
            discovery.view(endpoints(), balance=balance) as one,
            discovery.view(endpoints("ns"), balance=balance) as two,
            one.using() as busy,
        ):
            await two.wait_for(2)
            assert busy not in {two.pick() for _ in range(20)}

    async def test_nobody(self, registry: Registry) -> None:
        discovery = await registry.join()
        async with discovery.view(endpoints()) as view:
            for key in (None, "key", b"key"):
                with pytest.raises(NoInstanceError):
                    view.pick(key)
                with pytest.raises(NoInstanceError):
                    async with view.using(key):
                        pass
            mine = await discovery.register(spec())
            await view.wait_for(1)
            assert view.pick() == mine
            await discovery.unregister(mine)
            await until(lambda: not len(view))
            with pytest.raises(NoInstanceError):
                view.pick()

    async def test_a_key_has_its_instance_in_every_process(self, registry: Registry) -> None:
        services = [await registry.join(instance_id=number) for number in range(8)]
        for service in services:
            await service.register(spec())
        one, two = await registry.join(), await registry.join()
        async with one.view(endpoints()) as first, two.view(endpoints("ns"), balance=Random()) as second:
            keys = [f"user-{number}" for number in range(300)]
            before = {key: first.pick(key) for key in keys}
            assert before == {key: second.pick(key.encode()) for key in keys}
            assert len(set(before.values())) == 8
            leaver = before[keys[0]]
            await services[leaver.instance_id].unregister(leaver)
            await until(lambda: len(first) == 7)
            moved = {key for key in keys if first.pick(key) != before[key]}
            assert moved == {key for key in keys if before[key] == leaver}

    async def test_a_balance_of_choice(self, registry: Registry) -> None:
        discovery, heavy = await registry.join(), spec("heavy", weight=1)
        mine = await discovery.register(heavy)
        await discovery.register(spec("light", weight=0))
        async with discovery.view(endpoints(), balance=Weighted()) as view:
            assert {view.pick() for _ in range(50)} == {mine}
            unloved = await discovery.update(mine, metadata={"weight": 0})
            await until(lambda: view.get(mine.id) == unloved)
            assert {view.pick() for _ in range(200)} == set(view.instances)

    async def test_a_zone_and_its_neighbours(self, registry: Registry) -> None:
        discovery = await registry.join()
        near = await discovery.register(spec("near", zone="a"))
        far = await discovery.register(spec("far", zone="b"))
        async with discovery.view(endpoints(), balance=PreferZone("a")) as view:
            assert {view.pick() for _ in range(4)} == {near}
            view.report_failure(near.id)
            assert {view.pick() for _ in range(4)} == {far}
            await discovery.unregister(near)
            await until(lambda: len(view) == 1)
            assert view.pick() == far

    async def test_a_zone_where_everybody_drains(self, registry: Registry) -> None:
        discovery = await registry.join()
        near = await discovery.register(spec("near", zone="a"))
        too = await discovery.register(spec("too", zone="a"))
        far = await discovery.register(spec("far", zone="b"))
        async with discovery.view(endpoints(), balance=PreferZone("a")) as view:
            leaving = await discovery.drain(near)
            await until(lambda: view.get(near.id) == leaving)
            assert {view.pick() for _ in range(4)} == {too}
            view.report_failure(too.id)
            assert {view.pick() for _ in range(4)} == {far}

    async def test_using_counts_work_in_flight(self, registry: Registry) -> None:
        discovery, balance = await registry.join(), LeastOutstanding()
        for name in "abcd":
            await discovery.register(spec(name))
        async with discovery.view(endpoints(), balance=balance) as view:
            async with view.using("key") as first:
                assert first == view.pick("key")
                assert list(balance._outstanding.values()) == [1]
                async with view.using("key") as again:
                    assert again == first
                    assert list(balance._outstanding.values()) == [2]
            with pytest.raises(RuntimeError):
                async with view.using():
                    raise RuntimeError("the request failed")
            work = asyncio.create_task(self.use_for_ever(view))
            await eventually(lambda: balance._outstanding)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert not balance._outstanding

    async def use_for_ever(self, view: View[EndpointInstance]) -> None:
        async with view.using():
            await asyncio.Event().wait()

    async def test_using_waits_for_somebody(self, registry: Registry) -> None:
        discovery = await registry.join()
        view = discovery.view(endpoints())

        async def use(timeout: float) -> natsdisc.Instance:
            async with view.using(timeout=timeout) as instance:
                return instance

        with pytest.raises(NoInstanceError):
            await use(0.01)
        using = asyncio.create_task(use(PATIENCE))
        mine = await discovery.register(spec())
        assert await using == mine
        waiting = asyncio.create_task(use(PATIENCE))
        assert await waiting == mine
        await discovery.unregister(mine)
        await until(lambda: not len(view))
        waiting = asyncio.create_task(use(PATIENCE))
        await asyncio.sleep(0)
        await view.aclose()
        with pytest.raises(natsdisc.ClosedError):
            await waiting
        with pytest.raises(NoInstanceError):
            await use(0)

    async def test_using_waits_for_somebody_whom_its_balance_takes(self, registry: Registry) -> None:
        class OnlyFree(Random):
            def pick(self, instances: Sequence[_Instance]) -> _Instance:
                return super().pick([one for one in instances if not metadata(one).get("busy")])

        discovery = await registry.join()
        busy = await discovery.register(spec(busy=True))
        async with discovery.view(endpoints(), balance=OnlyFree()) as view:

            async def use(timeout: float | None) -> EndpointInstance:
                async with view.using(timeout=timeout) as instance:
                    return instance

            for short in (0.0, 0.01):
                with pytest.raises(NoInstanceError):
                    await use(short)
            using = [asyncio.create_task(use(timeout)) for timeout in (PATIENCE, None)]
            await asyncio.sleep(0)
            free = await discovery.update(busy, metadata={})
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*using) == [free, free]

    async def test_a_reported_one_is_left_out_while_there_are_others(self, registry: Registry) -> None:
        discovery = await registry.join()
        one, two, three = [await discovery.register(spec(name)) for name in "abc"]
        async with discovery.view(endpoints()) as view:
            view.report_failure(two.id)
            assert {view.pick() for _ in range(6)} == {one, three}
            assert two not in {view.pick(f"user-{number}") for number in range(50)}
            assert two in view  # it is still there
            view.report_failure(one.id)
            assert {view.pick() for _ in range(6)} == {three}
            view.report_failure(three.id)
            assert {view.pick() for _ in range(6)} == {one, two, three}  # better than nobody
            view.report_failure(spec("unknown").with_instance_id(1).id)


class TestSetAside:
    """With a clock that the test moves."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def view(self, clock: ManualClock) -> AsyncIterator[View[EndpointInstance]]:
        async with natsdisc.Discovery(MemoryStore(clock=clock), lease_ttl=None) as discovery:
            for name in "ab":
                await discovery.register(spec(name))
            async with discovery.view(endpoints()) as view:
                yield view

    def is_aside(self, view: View[EndpointInstance]) -> bool:
        return {view.pick() for _ in range(4)} == {view.instances[1]}

    async def rest(self, view: View[EndpointInstance], clock: ManualClock, step: float) -> float:
        """Report the first one; how long it is out, in so long steps."""
        started = clock.time()
        view.report_failure(view.instances[0].id)
        while self.is_aside(view):
            assert clock.time() - started <= LONGEST_REST
            await clock.advance(step)
        return clock.time() - started

    async def test_for_a_growing_time_with_a_limit(
        self, view: View[EndpointInstance], clock: ManualClock
    ) -> None:
        longest = [min(FIRST_REST * 2**number, LONGEST_REST) for number in range(9)]
        rests = [await self.rest(view, clock, most / 64) for most in longest]
        for rest, most in zip(rests, longest, strict=True):
            assert most / 2 <= rest <= most + most / 64
        assert longest[-3:] == [LONGEST_REST] * 3
        assert len({rest / most for rest, most in zip(rests, longest, strict=True)}) > 3  # chance

    async def test_of_several_the_earliest_comes_back_first(
        self, view: View[EndpointInstance], clock: ManualClock
    ) -> None:
        first, second = view.instances
        for step in (0.1, 0.1, 0.1):
            await self.rest(view, clock, step)
        view.report_failure(first.id)  # for at least two seconds
        view.report_failure(second.id)
        assert {view.pick() for _ in range(4)} == {first, second}
        await clock.advance(FIRST_REST)
        assert {view.pick() for _ in range(4)} == {second}
        await clock.advance(LONGEST_REST)
        assert {view.pick() for _ in range(4)} == {first, second}

    async def test_it_is_back_at_once_when_it_registers_anew(self, clock: ManualClock) -> None:
        async with natsdisc.Discovery(MemoryStore(clock=clock), lease_ttl=None) as discovery:
            one, two = await discovery.register(spec("a")), await discovery.register(spec("b"))
            async with discovery.view(endpoints()) as view:
                view.report_failure(one.id)
                assert self.is_aside(view)
                await discovery.unregister(one)
                await discovery.register(spec("a"))
                await until(lambda: {view.pick() for _ in range(4)} == {one, two})
                assert clock.time() == 0.0
                assert await self.rest(view, clock, 1 / 64) <= FIRST_REST + 1 / 64

    async def test_what_failed_together_counts_once(
        self, view: View[EndpointInstance], clock: ManualClock
    ) -> None:
        for _ in range(8):
            view.report_failure(view.instances[0].id)
        assert self.is_aside(view)
        await clock.advance(FIRST_REST)
        assert not self.is_aside(view)

    async def test_another_transport_is_registering_anew(self, clock: ManualClock) -> None:
        async with natsdisc.Discovery(MemoryStore(clock=clock), lease_ttl=None) as discovery:
            one, two = await discovery.register(spec("a")), await discovery.register(spec("b"))
            async with discovery.view(endpoints()) as view:
                view.report_failure(one.id)
                assert self.is_aside(view)
                moved = await discovery.update(one, transport=Transport.nats("elsewhere"))
                await until(lambda: {view.pick() for _ in range(4)} == {moved, two})

    async def test_nothing_is_remembered_of_who_is_gone_or_never_was(self, clock: ManualClock) -> None:
        async with (
            natsdisc.Discovery(MemoryStore(clock=clock), lease_ttl=None) as discovery,
            discovery.view(endpoints("ns")) as view,
        ):
            for number in range(20):
                mine = await discovery.register(spec(f"ep{number}"))
                await view.wait_for(1)
                view.report_failure(mine.id)
                assert view._choice.ejections
                await discovery.unregister(mine)
                await until(lambda: not len(view))
                view.report_failure(mine.id)
                view.report_failure(spec(namespace="elsewhere").with_instance_id(1).id)
                view.report_failure(ModelSpec("ns", "comp", "ep", card=1).with_instance_id(1).id)
                assert not view._choice.ejections
                assert not view._choice.ejections.out
            await clock.advance(LONGEST_REST)
            view.report_failure((await discovery.register(spec())).id)
            assert len(view._choice.ejections._returns) <= 1

    async def test_any_number_of_failures(self, view: View[EndpointInstance], clock: ManualClock) -> None:
        for _ in range(1100):
            view.report_failure(view.instances[0].id)
            await clock.advance(LONGEST_REST)
        view.report_failure(view.instances[0].id)
        assert self.is_aside(view)

    async def test_old_failures_are_forgotten(self, view: View[EndpointInstance], clock: ManualClock) -> None:
        for _ in range(10):
            await self.rest(view, clock, 1.0)
        await clock.advance(3600)
        assert await self.rest(view, clock, 1 / 16) <= FIRST_REST + 1 / 16

    async def test_an_update_is_not_registering_anew(self, clock: ManualClock) -> None:
        async with natsdisc.Discovery(MemoryStore(clock=clock), lease_ttl=None) as discovery:
            one = await discovery.register(spec("a"))
            await discovery.register(spec("b"))
            async with discovery.view(endpoints()) as view:
                view.report_failure(one.id)
                loaded = await discovery.update(one, metadata={"load": 3})
                await until(lambda: view.get(one.id) == loaded)
                assert self.is_aside(view)
