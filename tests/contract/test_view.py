"""The live view: what it shows, who hears of a change, and whom it picks. On both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest

import natsdisc
import natsdisc.balance
from natsdisc import (
    Added,
    EndpointInstance,
    EndpointSpec,
    ManualClock,
    MemoryStore,
    ModelSpec,
    NoInstanceError,
    RemovalReason,
    Removed,
    Status,
    Transport,
    View,
    endpoints,
    models,
)
from natsdisc.balance import LeastOutstanding, PreferZone, Random, Weighted
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

_Instance = TypeVar("_Instance", bound=natsdisc.Instance)
PATIENCE = 15.0
# The first rest of a reported instance, and the longest (seconds); chance takes up to half away.
FIRST_REST, LONGEST_REST = 0.5, 30.0


def spec(name: str = "ep", at: str = "addr", namespace: str = "ns", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "comp", name, transport=Transport.nats(at), metadata=metadata)


def metadata(instance: natsdisc.Instance) -> Mapping[str, Any]:
    return instance.metadata if isinstance(instance, EndpointInstance) else {}


async def until(condition: Any) -> None:
    await eventually(condition, PATIENCE)


async def consumers(discovery: natsdisc.Discovery) -> int:
    """How many readers of endpoints the store serves: on a server those of everybody."""
    bucket: Any = discovery._store.bucket("v1_instances")
    if isinstance(discovery._store, MemoryStore):
        return len(bucket._readers)
    info = await bucket._api.call(f"STREAM.INFO.{bucket._stream.name}")
    return int(info["state"]["consumer_count"])


async def until_consumers(discovery: natsdisc.Discovery, count: int) -> None:
    async def so_many() -> bool:
        return await consumers(discovery) == count

    await until(so_many)


class TestReading:
    async def test_like_a_collection(self, registry: Registry) -> None:
        service, client = await registry.join(instance_id=5), await registry.join()
        names = ["b", "a", "c"]
        b, a, c = [await service.register(spec(name)) for name in names]
        other = await (await registry.join(instance_id=3)).register(spec("a"))
        async with client.view(endpoints("ns", "comp")) as view:
            assert view.synced
            assert view.instances == (other, a, b, c)  # by id
            assert isinstance(view.instances, tuple)
            assert tuple(view) == view.instances
            assert len(view) == 4
            assert a in view
            assert a.id in view
            assert view.get(a.id) == a
            await service.unregister(a)
            await until(lambda: len(view) == 3)
            assert a not in view
            assert a.id not in view
            assert view.get(a.id) is None
            assert list(view) == [other, b, c]

    async def test_an_instance_is_in_by_its_id(self, registry: Registry) -> None:
        service = await registry.join()
        old = await service.register(spec())
        async with service.view(endpoints()) as view:
            new = await service.update(old, metadata={"a": 1})
            await until(lambda: view.get(old.id) == new)
            assert old in view
            assert view.instances == (new,)

    async def test_nothing_outside_the_query(self, registry: Registry) -> None:
        service = await registry.join()
        here, there = await service.register(spec()), await service.register(spec(namespace="ns2"))
        card = await service.register(ModelSpec("ns", "comp", "ep", card=1))
        async with service.view(endpoints("ns")) as view, service.view(models()) as cards:
            assert view.instances == (here,)
            for outside in (there, card):
                assert outside not in view
                assert view.get(outside.id) is None
            assert cards.instances == (card,)

    async def test_an_empty_registry_is_a_picture_too(self, registry: Registry) -> None:
        client = await registry.join()
        view = client.view(endpoints())
        assert not view.synced
        assert (len(view), view.instances, list(view)) == (0, (), [])
        async with asyncio.timeout(PATIENCE):
            await view.wait_for(0)
        assert view.synced

    async def test_entering_waits_for_the_first_picture(self, registry: Registry) -> None:
        service = await registry.join()
        mine = [await service.register(spec(f"ep{number}")) for number in range(20)]
        client = await registry.join()
        async with client.view(endpoints()) as view:
            assert set(view) == set(mine)

    async def test_reads_make_nothing_new_until_a_change(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        async with service.view(endpoints()) as view:
            before = view.instances
            assert view.instances is before
            assert view.get(mine.id) is before[0]
            await service.register(spec("other"))
            await view.wait_for(2)
            assert len(before) == 1  # what was read stays what it was
            assert len(view.instances) == 2

    async def test_age_is_small_while_the_server_is_there(self, registry: Registry) -> None:
        client = await registry.join()
        async with client.view(endpoints()) as view:
            assert 0 <= view.age < 3.5  # two of the server's signs of life, and the machine's load
            assert registry.on_server or view.age == 0


class TestServerAway:
    @pytest.fixture
    async def server(self) -> AsyncIterator[NatsServer]:
        async with NatsServer() as server:
            yield server

    async def test_the_last_picture_and_its_age(self, server: NatsServer) -> None:
        async with natsdisc.connect(server.url, lease_ttl=None) as discovery:
            mine = await discovery.register(spec())
            async with discovery.view(endpoints()) as view:
                shown: list[int] = []
                unsubscribe = view.subscribe(lambda event: shown.append(len(view)))
                server.suspend()
                try:
                    frozen = view.age
                    await until(lambda: view.age > 4)  # it was looked for again, in vain
                    assert view.age > frozen
                    await until(lambda: discovery.stats().resyncs)
                    self.shows_the_last_picture(view, mine)
                finally:
                    server.resume()
                await until(lambda: view.age < 3)
                self.shows_the_last_picture(view, mine)
                assert shown == []
                unsubscribe()
                await discovery.unregister(mine)
                await until(lambda: not view.instances)

    async def test_a_restart(self, server: NatsServer) -> None:
        async with natsdisc.connect(server.url, lease_ttl=None) as discovery:
            mine = await discovery.register(spec())
            async with discovery.view(endpoints()) as view:
                shown: list[natsdisc.Event] = []
                view.subscribe(shown.append)
                server.kill()
                await until(lambda: view.age > 2)
                self.shows_the_last_picture(view, mine)
                await asyncio.to_thread(server.restart)
                await until(lambda: view.age < 1)
                self.shows_the_last_picture(view, mine)
                assert shown == []

    def shows_the_last_picture(self, view: View[EndpointInstance], mine: EndpointInstance) -> None:
        assert view.synced
        assert view.instances == (mine,)
        assert view.get(mine.id) == mine
        assert view.pick() == mine
        assert view.pick("key") == mine


class TestWaiting:
    async def test_for_so_many(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):
            waiting = asyncio.create_task(view.wait_for(3, timeout=PATIENCE))
            for number in range(3):
                assert not waiting.done()
                await service.register(spec(f"ep{number}"))
                if number < 2:
                    await view.wait_for(number + 1)
            await waiting
            await view.wait_for(3, timeout=0)  # what is there needs no waiting
            await view.wait_for(1)

    async def test_a_timeout(self, registry: Registry) -> None:
        client = await registry.join()
        async with client.view(endpoints()) as view:
            with pytest.raises(TimeoutError):
                await view.wait_for(1, timeout=0.01)
            with pytest.raises(TimeoutError):
                await view.wait_for(1, timeout=0)
            mine = await client.register(spec())
            await view.wait_for(1, timeout=PATIENCE)
            assert view.instances == (mine,)

    async def test_changed_is_for_every_kind_of_change(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):

            async def seen(work: Any) -> Any:
                change = asyncio.create_task(view.changed())
                await asyncio.sleep(0)  # it has begun to wait
                assert not change.done()
                outcome = await work
                await change
                return outcome

            mine = await seen(service.register(spec()))
            assert view.instances == (mine,)
            moved = await seen(service.update(mine, transport=Transport.nats("other")))
            assert view.instances == (moved,)
            await seen(service.unregister(mine))
            assert list(view) == []

    async def test_everybody_who_waits_is_woken(self, registry: Registry) -> None:
        client = await registry.join()
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):
            waiting: list[asyncio.Task[Any]] = [asyncio.create_task(view.changed()) for _ in range(3)]
            waiting += [asyncio.create_task(view.wait_for(1)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting.pop().cancel()
            await client.register(spec())
            await asyncio.gather(*waiting)

    async def test_all_the_same_whether_it_drains_or_failed(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        one, two = await service.register(spec("a")), await service.register(spec("b"))
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):
            draining = await service.drain(one)
            await until(lambda: view.get(one.id) == draining)
            view.report_failure(two.id)
            await view.wait_for(2)

    async def test_changed_since_misses_nothing(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):
            before = view.version
            quick, slow = [asyncio.create_task(view.changed(before)) for _ in range(2)]
            mine = await service.register(spec())
            await view.wait_for(1)
            seen = await quick
            assert seen == await slow == view.version > before
            again = asyncio.create_task(view.changed(seen))
            await service.update(mine, metadata={"a": 1})
            await service.update(mine, metadata={"a": 2})
            assert await again > seen
            while view.instances[0].metadata != {"a": 2}:
                await view.changed()
            last = view.version
            assert last == seen + 2
            assert await view.changed(before) == await view.changed(seen) == last  # at once
            waiting = asyncio.create_task(view.changed(last))
            await asyncio.sleep(0)
            assert not waiting.done()
        with pytest.raises(natsdisc.ClosedError):
            await waiting
        assert await view.changed(seen) == last

    async def test_nobody_who_waits_is_forgotten(self, registry: Registry) -> None:
        """Some wait on and some go with each change."""
        service, client = await registry.join(), await registry.join()
        async with client.view(endpoints()) as view, asyncio.timeout(PATIENCE):
            counts: list[int] = []

            async def follow(changes: int) -> None:
                seen = 0
                while seen < changes:
                    seen = await view.changed(seen)
                counts.append(changes)

            following = [asyncio.create_task(follow(number)) for number in (1, 3, 6, 6, 6)]
            following += [asyncio.create_task(view.wait_for(number)) for number in (1, 2, 3, 3)]
            for number in range(3):
                await service.register(spec(f"ep{number}"))
            await view.wait_for(3)
            for instance in view.instances:
                await service.unregister(instance)
            await asyncio.gather(*following)
            assert sorted(counts) == [1, 3, 6, 6, 6]


class TestSubscribing:
    async def test_events_come_after_the_view_has_changed(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        kept = await service.register(spec("kept"))
        async with client.view(endpoints()) as view:
            heard: list[tuple[natsdisc.Event, tuple[natsdisc.Instance, ...]]] = []
            unsubscribe = view.subscribe(lambda event: heard.append((event, view.instances)))
            mine = await service.register(spec())
            await until(lambda: len(heard) == 1)
            moved = await service.update(mine, metadata={"a": 1})
            await until(lambda: len(heard) == 2)
            await service.unregister(mine)
            await until(lambda: len(heard) == 3)
            assert heard == [
                (Added(mine), (mine, kept)),
                (Added(moved), (moved, kept)),
                (Removed(mine.id, RemovalReason.UNREGISTERED), (kept,)),
            ]
            assert isinstance(heard[2][0], Removed)
            assert heard[2][0].last == moved
            unsubscribe()
            unsubscribe()
            await service.unregister(kept)
            await until(lambda: not view.instances)
            assert len(heard) == 3

    async def test_a_crash(self, registry: Registry) -> None:
        service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=0)
        mine = await service.register(spec())
        async with client.view(endpoints()) as view:
            heard: list[natsdisc.Event] = []
            view.subscribe(heard.append)
            await crash(service)
            await until(lambda: heard)
            assert heard == [Removed(mine.id, RemovalReason.EXPIRED)]

    async def test_a_failing_callback_breaks_nothing(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: natsdisc.Event) -> None:
            raise RuntimeError("the user's mistake")

        service, client = await registry.join(), await registry.join()
        heard: list[natsdisc.Event] = []
        async with client.view(endpoints()) as view, client.list_and_watch(endpoints()) as events:
            view.subscribe(fail)
            view.subscribe(heard.append)
            view.subscribe(fail)
            async with client.view(endpoints()) as second:
                second.subscribe(heard.append)
                mine = await service.register(spec())
                async with asyncio.timeout(PATIENCE):
                    assert await anext(events) == Added(mine)
                    await view.wait_for(1)
            assert heard == [Added(mine)] * 2
        failures = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(failures) == 2
        assert "the user's mistake" in caplog.text

    async def test_a_callback_may_subscribe_and_unsubscribe(self, registry: Registry) -> None:
        client = await registry.join()
        heard: list[str] = []
        async with client.view(endpoints()) as view:

            def once(event: natsdisc.Event) -> None:
                heard.append("once")
                unsubscribe()
                view.subscribe(lambda event: heard.append("later"))

            unsubscribe = view.subscribe(once)
            await client.register(spec("a"))
            await view.wait_for(1)
            assert heard == ["once"]
            await client.register(spec("b"))
            await view.wait_for(2)
            assert heard == ["once", "later"]

    async def test_a_callback_sees_every_view_up_to_date(self, registry: Registry) -> None:
        client = await registry.join()
        async with client.view(endpoints()) as first, client.view(endpoints()) as second:
            seen: list[bool] = []

            def look(_: natsdisc.Event) -> None:
                seen.append(first.instances == second.instances == tuple(first) == tuple(second))
                seen.append(first.get(first.pick().id) is not None if len(first) else not len(second))

            first.subscribe(look)
            second.subscribe(look)
            for _ in range(3):
                mine = [await client.register(spec(name)) for name in "ba"]
                await first.wait_for(2)
                assert first.instances == second.instances == tuple(reversed(mine))
                for one in mine:
                    await client.unregister(one)
                await until(lambda: not len(first))
                assert first.instances == second.instances == ()
            assert seen == [True] * 3 * 2 * 2 * 2 * 2


class TestOneFeed:
    async def test_the_view_has_changed_before_an_event_is_read(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        async with client.list_and_watch(endpoints()) as events, client.view(endpoints()) as view:
            for number in range(20):
                mine = await service.register(spec(f"ep{number}"))
                async with asyncio.timeout(PATIENCE):
                    assert await anext(events) == Added(mine)
                assert view.get(mine.id) == mine
                assert mine in view.instances
                await service.unregister(mine)
                async with asyncio.timeout(PATIENCE):
                    assert isinstance(await anext(events), Removed)
                assert view.get(mine.id) is None
                assert view.instances == ()

    async def test_one_query_has_one_consumer(self, registry: Registry) -> None:
        discovery, asking = await registry.join(), await registry.join()
        mine = await discovery.register(spec())
        views = [discovery.view(endpoints("ns")) for _ in range(3)]
        watches = [discovery.list_and_watch(endpoints("ns")) for _ in range(3)]
        for view in views:
            await view.wait_for(1, timeout=PATIENCE)
        for watch in watches:
            await watch.synced()
            assert await anext(watch) == Added(mine)
        await until_consumers(asking, 1)
        async with discovery.view(endpoints()) as wider:
            assert wider.instances == views[0].instances
            await until_consumers(asking, 2)
        await until_consumers(asking, 1)
        for watch in watches:
            await watch.aclose()
        for view in views[1:]:
            await view.aclose()
        await until_consumers(asking, 1)
        changing = await discovery.update(mine, metadata={"still": "read"})
        await until(lambda: views[0].instances == (changing,))
        await views[0].aclose()
        await until_consumers(asking, 0)

    async def test_a_late_view_shows_at_once_what_an_earlier_one_knows(self, registry: Registry) -> None:
        discovery = await registry.join()
        mine = await discovery.register(spec())
        async with discovery.view(endpoints()):
            late = discovery.view(endpoints())
            assert late.synced
            assert late.instances == (mine,)
            assert late.pick() == mine
            await late.aclose()

    async def test_views_of_one_query_rotate_by_themselves(self, registry: Registry) -> None:
        discovery = await registry.join()
        for name in "ab":
            await discovery.register(spec(name))
        async with discovery.view(endpoints()) as one, discovery.view(endpoints()) as two:
            assert {one.pick(), one.pick()} == {two.pick(), two.pick()} == set(one.instances)
            one.report_failure(one.instances[0].id)
            assert {one.pick(), one.pick()} == {one.instances[1]}
            assert {two.pick(), two.pick()} == set(two.instances)


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


class TestDraining:
    async def test_a_draining_one_is_left_out_while_there_are_others(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        one = await service.register(spec("a", zone="z"))
        two = await service.register(spec("b"))
        async with client.view(endpoints()) as view:
            draining = await service.drain(one)
            assert draining == dataclasses.replace(one, status=Status.DRAINING)
            await until(lambda: view.get(one.id) == draining)
            assert view.instances == (draining, two)
            assert {view.pick() for _ in range(4)} == {two}
            assert {view.pick(f"user-{number}") for number in range(50)} == {two}
            view.report_failure(two.id)
            assert {view.pick() for _ in range(4)} == {draining}  # it serves, the other does not
            await service.unregister(two)
            await until(lambda: len(view) == 1)
            assert view.pick() == draining  # and it serves alone
            changed = await service.update(draining, metadata={})
            assert changed.status is Status.DRAINING  # an update cancels no drain
            await until(lambda: view.pick() == changed)
        assert [r.instance for r in service.registrations] == [changed]

    async def test_draining_twice(self, registry: Registry) -> None:
        service = await registry.join()
        one = await service.register(spec())
        draining = await service.drain(one)
        assert await service.drain(one) == draining
        assert await service.drain(draining) == draining
        assert await service.list(endpoints()) == [draining]

    async def test_by_another_process(self, registry: Registry) -> None:
        service, operator = await registry.join(lease_ttl=1), await registry.join()
        one = await service.register(spec("a", zone="z"))
        draining = await operator.drain(one)
        await until(lambda: service.registrations[0].instance == draining)
        beats = service.stats().heartbeats
        await until(lambda: service.stats().heartbeats > beats + 4)
        assert await operator.list(endpoints()) == [draining]
        assert [r.state for r in service.registrations] == [natsdisc.State.ACTIVE]
        again = await service.update(one, metadata={"more": 1})
        assert again == dataclasses.replace(draining, metadata={"more": 1})
        assert await operator.list(endpoints()) == [again]

    async def test_of_something_that_is_not_there(self, registry: Registry) -> None:
        service = await registry.join()
        with pytest.raises(natsdisc.ConflictError):
            await service.drain(spec().with_instance_id(1))

    async def test_a_model_card_cannot_be_drained(self, registry: Registry) -> None:
        service = await registry.join()
        card = await service.register(ModelSpec("ns", "comp", "ep", card={}))
        with pytest.raises(natsdisc.InvalidValueError, match="endpoint"):
            await service.drain(card)  # type: ignore[arg-type]
        assert await service.list(models()) == [card]

    async def test_closing_with_a_drain(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        one, two = await service.register(spec("a")), await service.register(spec("b"))
        card = await service.register(ModelSpec("ns", "comp", "ep", card={}))
        other = await client.register(spec("other"))
        async with client.view(endpoints()) as view, client.view(models()) as cards:
            states: list[tuple[str, bool]] = []
            view.subscribe(lambda event: states.append(described(event)))
            loop, started = asyncio.get_running_loop(), asyncio.get_running_loop().time()
            closing = asyncio.create_task(service.close(drain=0.5))
            await until(lambda: len(states) == 2)
            assert {view.pick() for _ in range(4)} == {other}
            assert len(view) == 3
            assert card in cards
            await closing
            assert loop.time() - started >= 0.5
            await until(lambda: len(states) == 4)
            assert view.instances == (other,)
            await until(lambda: not len(cards))
        assert sorted(states[:2]) == [(str(one.id), True), (str(two.id), True)]
        assert sorted(states[2:]) == [(str(one.id), False), (str(two.id), False)]

    async def test_closing_with_a_drain_and_nothing_to_drain(self, registry: Registry) -> None:
        service = await registry.join()
        await service.register(ModelSpec("ns", "comp", "ep", card={}))
        async with asyncio.timeout(PATIENCE):
            await service.close(drain=3600)
            await service.close(drain=3600)

    async def test_cancelled_while_it_drains_it_still_closes(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        await service.register(spec())
        async with client.view(endpoints()) as view:
            closing = asyncio.create_task(service.close(drain=3600))
            async with asyncio.timeout(PATIENCE):
                await view.changed()
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert await client.list(endpoints()) == []


def described(event: natsdisc.Event) -> tuple[str, bool]:
    """Who, and whether it is (still) there and draining."""
    match event:
        case Added(EndpointInstance(status=status) as instance):
            return str(instance.id), status is Status.DRAINING
        case Removed(id):
            return str(id), False
    raise AssertionError(event)


class TestSelecting:
    async def test_it_follows_the_view(self, registry: Registry) -> None:
        service = await registry.join()
        one = await service.register(ModelSpec("ns", "comp", "ep", card={"load": 1}))
        two = await service.register(ModelSpec("ns", "comp", "ep", card={"load": 2}, model_suffix="lora"))
        worked: list[natsdisc.Instance] = []

        def load(instance: natsdisc.ModelInstance) -> int:
            worked.append(instance)
            return int(instance.card["load"])

        async with service.view(models()) as view:
            loads = view.select(load)
            assert worked == []
            assert dict(loads) == {one.id: 1, two.id: 2}
            assert loads == {one.id: 1, two.id: 2}
            assert (loads[one.id], loads.get(two.id), len(loads)) == (1, 2, 2)
            assert list(loads) == [one.id, two.id]
            assert worked == [one, two]  # once each
            changed = await service.update(one, card={"load": 5})
            await until(lambda: view.get(one.id) == changed)
            assert loads[one.id] == 5
            assert dict(loads) == {one.id: 5, two.id: 2}
            assert worked == [one, two, changed]
            await service.unregister(two)
            await until(lambda: len(view) == 1)
            assert dict(loads) == {one.id: 5}
            assert two.id not in loads
            assert loads.get(two.id, 0) == 0
            with pytest.raises(KeyError):
                loads[two.id]

    async def test_ids_that_are_gone_are_forgotten(self, registry: Registry) -> None:
        service = await registry.join()
        async with service.view(endpoints()) as view:
            names = view.select(lambda instance: instance.endpoint)
            for number in range(20):
                mine = await service.register(spec(f"ep{number}"))
                await view.wait_for(1)
                assert dict(names) == {mine.id: f"ep{number}"}
                await service.unregister(mine)
                await until(lambda: not len(view))
                assert dict(names) == {}
            assert len(names._values) <= 1

    async def test_ids_that_are_gone_are_forgotten_by_who_only_looks_up(self, registry: Registry) -> None:
        service = await registry.join()
        async with service.view(endpoints()) as view:
            names = view.select(lambda instance: instance.endpoint)
            for number in range(50):
                mine = await service.register(spec(f"ep{number}"))
                await view.wait_for(1)
                assert names[view.pick().id] == f"ep{number}"
                await service.unregister(mine)
                await until(lambda: not len(view))
            assert len(names._values) < 20

    async def test_who_awaits_on_the_way_finds_nobody_that_is_gone(self, registry: Registry) -> None:
        service = await registry.join()
        mine = [await service.register(spec(name)) for name in "abc"]
        async with service.view(endpoints()) as view:
            names, found = view.select(lambda instance: instance.endpoint), []
            for id, name in names.items():
                found.append((id, name))
                if len(found) == 1:
                    await service.unregister(mine[1])
                    await until(lambda: len(view) == 2)
            assert found == [(mine[0].id, "a"), (mine[2].id, "c")]

    async def test_what_the_function_raises_comes_out(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        async with service.view(endpoints()) as view:
            broken = view.select(lambda instance: 1 // 0)
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    broken[mine.id]
            assert len(broken) == 1


class TestClosing:
    async def test_a_closed_view_keeps_its_picture_and_waits_no_more(self, registry: Registry) -> None:
        discovery = await registry.join()
        mine = await discovery.register(spec())
        async with discovery.view(endpoints()) as view:
            waiting = [asyncio.create_task(view.wait_for(2)), asyncio.create_task(view.changed())]
            await asyncio.sleep(0)
        for task in waiting:
            with pytest.raises(natsdisc.ClosedError):
                await task
        await view.aclose()
        assert view.instances == (mine,)
        assert view.pick() == mine
        for work in (view.wait_for(2), view.wait_for(2, timeout=PATIENCE), view.changed()):
            with pytest.raises(natsdisc.ClosedError):
                await work
        await until_consumers(discovery, 0)

    async def test_a_closed_view_stays_as_it_is(self, registry: Registry) -> None:
        discovery = await registry.join()
        mine = await discovery.register(spec())
        async with discovery.view(endpoints()) as open_view:
            async with discovery.view(endpoints()) as view:
                pass
            await discovery.register(spec("other"))
            await open_view.wait_for(2)
            assert view.instances == (mine,)
            assert len(view) == 1

    async def test_with_the_discovery(self, registry: Registry) -> None:
        discovery, other = await registry.join(), await registry.join()
        mine = await other.register(spec())
        view = discovery.view(endpoints())
        await view.wait_for(1)
        waiting = asyncio.create_task(view.changed())
        await asyncio.sleep(0)
        await discovery.close()
        with pytest.raises(natsdisc.ClosedError):
            await waiting
        with pytest.raises(natsdisc.ClosedError):
            await view.wait_for(2)
        assert view.instances == (mine,)
        with pytest.raises(natsdisc.ClosedError):
            discovery.view(endpoints())
        await view.aclose()
        await until_consumers(other, 0)

    async def test_a_dropped_view_leaves_no_consumer(self, registry: Registry) -> None:
        discovery = await registry.join()
        await discovery.register(spec())
        kept = discovery.view(endpoints("ns"))
        for _ in range(20):
            view = discovery.view(endpoints())
            await view.wait_for(1)
            del view
        gc.collect()
        await until_consumers(discovery, 1)
        assert len(kept) == 1
        await kept.aclose()
        await until_consumers(discovery, 0)

    async def test_entering_that_is_cancelled_leaves_no_consumer(self, registry: Registry) -> None:
        discovery = await registry.join()
        await discovery.register(spec())
        for turns in range(0, 60, 3):
            view = discovery.view(endpoints())
            entering = asyncio.create_task(view.__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait((entering,))
            if not entering.cancelled():
                await view.aclose()
        del view, entering
        await until_consumers(discovery, 0)

    async def test_a_query_may_be_viewed_again(self, registry: Registry) -> None:
        discovery = await registry.join()
        mine = await discovery.register(spec())
        for _ in range(5):
            async with discovery.view(endpoints()) as view:
                assert view.instances == (mine,)
        await until_consumers(discovery, 0)
