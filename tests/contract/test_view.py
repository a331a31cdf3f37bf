"""The live view: what it shows, and who hears of a change. On both stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import natsdisc
import natsdisc.balance
from natsdisc import (
    Added,
    EndpointInstance,
    ModelSpec,
    RemovalReason,
    Removed,
    Transport,
    View,
    endpoints,
    models,
)
from natsdisc.server import NatsServer
from natsdisc.testing import crash

from .conftest import Registry
from .views import PATIENCE, spec, until, until_consumers


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


class TestOneInformer:
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
