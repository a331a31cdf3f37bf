"""Every call is cancelled at every await: nothing half done stays, and nothing runs on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, Transport, endpoints
from tests.rig import eventually

from .conftest import Registry

# A call takes some tens of turns of the loop; the spin below ends when a call was no longer caught.
MOST_TURNS = 5000


def spec(name: str) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


async def cancelled_everywhere(call: Callable[[int], Coroutine[Any, Any, Any]]) -> int:
    """Cancel `call(n)` after n turns, for every n until it gets through; how often it was cancelled."""
    caught = 0
    for turns in range(MOST_TURNS):
        task = asyncio.create_task(call(turns))
        for _ in range(turns):
            await asyncio.sleep(0)
            if task.done():
                break
        if task.done():
            await task
            return caught
        caught += 1  # noqa: SIM113 (not every turn count is caught)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    raise AssertionError(f"not done after {MOST_TURNS} turns")


async def test_register(registry: Registry) -> None:
    discovery, other = await registry.join(), await registry.join()

    async def register(number: int) -> None:
        await discovery.register(spec(f"ep{number}"))

    assert await cancelled_everywhere(register) > 2
    [kept] = discovery.registrations  # the one that got through
    assert await other.list(endpoints()) == [kept.instance]


async def test_unregister(registry: Registry) -> None:
    discovery = await registry.join()

    async def unregister(number: int) -> None:
        await discovery.unregister(mine)

    for _ in range(5):
        mine = await discovery.register(spec("ep"))
        await cancelled_everywhere(unregister)
        assert discovery.registrations == ()
        assert await discovery.list(endpoints()) == []


async def test_update(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(spec("ep"))

    async def update(number: int) -> None:
        await discovery.update(mine, metadata={"number": number})

    await cancelled_everywhere(update)
    assert await discovery.list(endpoints()) == [discovery.registrations[0].instance]


async def test_list(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(spec("ep"))

    async def listed(number: int) -> None:
        assert await discovery.list(endpoints()) == [mine]

    assert await cancelled_everywhere(listed) > 2
    await no_consumer_is_left(discovery)


async def test_watch(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(spec("ep"))

    async def watched(number: int) -> None:
        async with discovery.list_and_watch(endpoints()) as events:
            assert await anext(events) == Added(mine)

    assert await cancelled_everywhere(watched) > 2
    await no_consumer_is_left(discovery)


async def test_a_cancelled_read_loses_no_event(registry: Registry) -> None:
    discovery = await registry.join()
    async with discovery.list_and_watch(endpoints()) as events:
        await events.synced()
        reading = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        mine = await discovery.register(spec("ep"))
        async with asyncio.timeout(10):
            assert await anext(events) == Added(mine)


async def test_close(registry: Registry) -> None:
    other = await registry.join()
    for turns in range(1, 100, 7):
        discovery = await registry.join()
        await discovery.register(spec("ep"), lease_ttl=None)
        await discovery.list_and_watch(endpoints()).synced()
        closing = asyncio.create_task(discovery.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        assert await other.list(endpoints()) == []


async def test_a_cancelled_register_leaves_the_same_one_of_another_task(registry: Registry) -> None:
    discovery = await registry.join()
    for turns in range(30):
        first = asyncio.create_task(discovery.register(spec("ep")))
        second = asyncio.create_task(discovery.register(spec("ep")))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        mine = await second
        assert await discovery.list(endpoints()) == [mine]
        await discovery.unregister(mine)


async def test_close_knows_what_was_begun(registry: Registry) -> None:
    other = await registry.join()
    for turns in range(1, 60, 3):
        discovery = await registry.join(lease_ttl=None)
        left = await discovery.register(spec("left"))
        working = [
            asyncio.create_task(discovery.register(spec("begun"))),
            asyncio.create_task(discovery.unregister(left)),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        await discovery.close()
        for outcome in await asyncio.gather(*working, return_exceptions=True):
            assert not isinstance(outcome, asyncio.CancelledError)
        assert await other.list(endpoints()) == []


async def test_close_takes_along_what_is_just_registered_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = await registry.join(lease_ttl=60), await registry.join()
    await service.register(spec("ep"))
    bucket = service._store.bucket("v1_instances")
    restore, written = bucket.restore, asyncio.Event()

    async def answered_too_late(*args: Any, **options: Any) -> Any:
        await restore(*args, **options)
        written.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(bucket, "restore", answered_too_late)
    [held] = service.registrations
    await bucket.delete(held._key, revision=None)  # by somebody else
    service._registrar._upkeep.renew_all()
    async with asyncio.timeout(10):
        await written.wait()
    await service.close()
    assert await other.list(endpoints()) == []


async def test_a_watch_that_is_dropped_ends_by_itself(registry: Registry) -> None:
    discovery = await registry.join()
    await discovery.register(spec("ep"))
    for _ in range(20):
        watch = discovery.list_and_watch(endpoints())
        await watch.synced()
        del watch
    await no_consumer_is_left(discovery)


@pytest.mark.parametrize("what", ["watch", "view"])
async def test_another_thread_may_collect_what_was_dropped(registry: Registry, what: str) -> None:
    discovery = await registry.join()
    await discovery.register(spec("ep"))
    cycle: list[Any] = []
    if what == "watch":
        cycle.append(discovery.list_and_watch(endpoints()))
        await cycle[0].synced()
    else:
        cycle.append(discovery.view(endpoints()))
        await cycle[0].wait_for(1)
    cycle.append(cycle)
    del cycle
    await asyncio.to_thread(gc.collect)
    await no_consumer_is_left(discovery)


async def no_consumer_is_left(discovery: natsdisc.Discovery) -> None:
    """Neither in this process nor, where there is one, on the server."""
    await eventually(lambda: not any(informer.is_open for informer in discovery._informers.values()))
    bucket: Any = discovery._store.bucket("v1_instances")
    if isinstance(discovery._store, natsdisc.MemoryStore):
        await eventually(lambda: not bucket._readers)
        return

    async def consumers() -> bool:
        info = await bucket._api.call(f"STREAM.INFO.{bucket._stream.name}")
        return bool(info["state"]["consumer_count"] == 0)

    await eventually(consumers)
