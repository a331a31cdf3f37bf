"""A Discovery outside of its event loop says so, at once and in plain words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, WrongLoopError, endpoints

from .conftest import Registry

SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))
PATIENCE = 10.0


async def in_another_thread(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run `call` in a loop of another thread; raises what it raises."""

    async def called() -> None:
        async with asyncio.timeout(PATIENCE):
            await call()

    await asyncio.to_thread(lambda: asyncio.run(called()))


async def using(view: natsdisc.View[Any]) -> None:
    async with view.using():
        pass


async def entering(what: Any) -> None:
    async with what:
        pass


async def anext_of(watch: natsdisc.Watch) -> None:
    await anext(watch)


async def calling(function: Callable[[], Any]) -> None:
    function()


async def test_every_way_in(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(SPEC)
    view, watch, fresh = (
        discovery.view(endpoints()),
        discovery.list_and_watch(endpoints()),
        discovery.list_and_watch(endpoints("ns")),
    )
    await view.wait_for(1)
    await watch.synced()
    ways: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: discovery.register(SPEC),
        lambda: discovery.update(mine, metadata={"a": 1}),
        lambda: discovery.unregister(mine),
        lambda: discovery.list(endpoints()),
        lambda: discovery.drain(mine),
        lambda: discovery.close(),
        lambda: discovery.close(drain=1),
        lambda: calling(lambda: discovery.view(endpoints())),
        lambda: calling(lambda: discovery.list_and_watch(endpoints())),
        lambda: entering(discovery),
        lambda: view.wait_for(1),
        lambda: view.changed(),
        lambda: view.aclose(),
        lambda: entering(view),
        lambda: using(view),
        lambda: watch.synced(),
        lambda: watch.aclose(),
        lambda: entering(watch),
        lambda: anext_of(watch),
        lambda: anext_of(fresh),
    ]
    for way in ways:
        with pytest.raises(WrongLoopError, match=r"thread 'MainThread'.*run_coroutine_threadsafe"):
            await in_another_thread(way)
    # Nothing of that has done any harm.
    assert await discovery.list(endpoints()) == [mine]
    assert view.instances == (mine,)
    assert isinstance(await anext(watch), natsdisc.Added)


async def test_other_threads_may_read(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(SPEC)
    async with discovery.view(endpoints()) as view:

        def read() -> Any:
            return view.instances, view.pick(), view.get(mine.id), len(view), view.synced, discovery.stats()

        instances, picked, found, count, synced, stats = await asyncio.to_thread(read)
        assert (instances, picked, found, count, synced) == ((mine,), mine, mine, 1, True)
        assert stats.queries[endpoints()].instances == 1
        loop = asyncio.get_running_loop()

        def hand_over() -> Any:
            return asyncio.run_coroutine_threadsafe(discovery.list(endpoints()), loop).result(PATIENCE)

        assert await asyncio.to_thread(hand_over) == [mine]


async def test_without_a_loop(registry: Registry) -> None:
    discovery = await registry.join()
    watch: list[natsdisc.Watch] = []

    def use() -> None:
        watch.append(discovery.list_and_watch(endpoints()))  # nothing has begun yet
        discovery.view(endpoints())

    with pytest.raises(WrongLoopError, match="without a running event loop"):
        await asyncio.to_thread(use)
    await watch[0].synced()


def in_a_thread(work: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def test_a_loop_that_has_ended(nats_url: str) -> None:
    """As with two calls of asyncio.run."""

    def work() -> None:
        kept: list[natsdisc.Discovery] = []

        async def make() -> None:
            kept.append(natsdisc.Discovery(natsdisc.MemoryStore()))
            await kept[0].list(endpoints())

        async def use() -> None:
            with pytest.raises(WrongLoopError, match="has ended"):
                await kept[0].list(endpoints())
            with pytest.raises(WrongLoopError, match="has ended"):
                await kept[0].close()

        asyncio.run(make())
        asyncio.run(use())

    in_a_thread(work)


def test_one_that_is_made_outside_belongs_to_the_first_loop() -> None:
    def work() -> None:
        discovery = natsdisc.Discovery(natsdisc.MemoryStore())

        async def use() -> None:
            async with discovery:
                await discovery.register(SPEC)

        asyncio.run(use())

        async def late() -> None:
            await discovery.close()  # once more is nothing

        asyncio.run(late())

    in_a_thread(work)


def test_a_connection_of_another_loop(nats_url: str) -> None:
    """The user connected in one loop and made the Discovery in another."""

    def work() -> None:
        other = asyncio.new_event_loop()
        client = other.run_until_complete(nats.connect(nats_url))

        async def use() -> None:
            discovery = natsdisc.Discovery(natsdisc.JetStreamStore(client))
            with pytest.raises(WrongLoopError, match="another event loop"):
                await discovery.list(endpoints())

        asyncio.run(use())
        other.run_until_complete(client.close())
        other.close()

    in_a_thread(work)
