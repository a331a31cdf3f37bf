"""What is made of a view, and what is left when it ends. On both stores."""

from __future__ import annotations

import asyncio
import gc

import pytest

import natsdisc
import natsdisc.balance
from natsdisc import (
    ModelSpec,
    endpoints,
    models,
)

from .conftest import Registry
from .views import PATIENCE, spec, until, until_consumers


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
