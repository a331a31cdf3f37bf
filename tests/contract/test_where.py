"""Lists, watches and views of the instances that a function takes. On both stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    Added,
    EndpointInstance,
    EndpointSpec,
    InvalidValueError,
    ManualClock,
    MemoryStore,
    ModelSpec,
    RemovalReason,
    Removed,
    Transport,
    endpoints,
    models,
)
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0
UNMATCHED = RemovalReason.UNMATCHED


def spec(name: str = "ep", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"), metadata=metadata)


def is_gpu(instance: EndpointInstance) -> object:
    return instance.metadata.get("gpu")


async def following(watch: natsdisc.Watch[EndpointInstance]) -> natsdisc.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


async def test_one_that_stops_matching_is_removed_and_one_that_begins_is_added(registry: Registry) -> None:
    service, client = await registry.join(), await registry.join()
    one, other = await service.register(spec("a", gpu=1)), await service.register(spec("b"))
    assert await client.list(endpoints(), where=is_gpu) == [one]
    assert await client.list(endpoints()) == [one, other]
    heard: list[natsdisc.Event] = []
    async with (
        client.list_and_watch(endpoints(), where=is_gpu) as events,
        client.view(endpoints(), where=is_gpu) as view,
        client.view(endpoints()) as everything,
    ):
        view.subscribe(heard.append)
        await everything.wait_for(2)
        assert await following(events) == Added(one)
        assert (view.instances, len(view), view.pick(), one in view) == ((one,), 1, one, True)
        assert view.get(other.id) is None
        assert other not in view

        plain = await service.update(one, metadata={})
        gone = await following(events)
        assert gone == Removed(one.id, UNMATCHED)
        assert isinstance(gone, Removed)
        assert gone.last == one
        assert view.instances == ()
        assert set(everything) == {plain, other}
        with pytest.raises(natsdisc.NoInstanceError):
            view.pick()

        upgraded = await service.update(other, metadata={"gpu": 2})
        assert await following(events) == Added(upgraded)
        assert view.pick() == view.pick("key") == upgraded
        again = await service.update(upgraded, metadata={"gpu": 3})
        assert await following(events) == Added(again)
        await service.unregister(plain)
        await service.unregister(again)
        assert await following(events) == Removed(again.id, RemovalReason.UNREGISTERED)
        assert len(view) == 0
    assert [type(event) for event in heard] == [Removed, Added, Added, Removed]


async def test_what_never_matched_is_never_told(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=0)
    async with client.list_and_watch(endpoints(), where=is_gpu) as events, client.view(endpoints()) as view:
        await events.synced()
        mine = await service.register(spec("a"))
        await service.update(mine, metadata={"more": 1})
        await crash(service)
        await eventually(lambda: view.version >= 3 and not len(view), PATIENCE)
        marked = await client.register(spec("b", gpu=1))
        assert await following(events) == Added(marked)


async def test_every_function_shares_one_reader(registry: Registry) -> None:
    discovery = await registry.join()
    for number in range(4):
        await discovery.register(spec(f"ep{number}", number=number))

    def at_least(least: int) -> Callable[[EndpointInstance], bool]:
        return lambda one: one.metadata["number"] >= least

    views = [discovery.view(endpoints(), where=at_least(least)) for least in range(4)]
    for least, view in enumerate(views):
        await view.wait_for(4 - least, timeout=PATIENCE)
    assert [len(view) for view in views] == [4, 3, 2, 1]
    assert len({id(view._informer) for view in views}) == 1
    late = discovery.view(endpoints(), where=lambda one: one.metadata["number"] == 2)
    assert late.synced  # it knows at once what the others know
    assert [one.metadata["number"] for one in late] == [2]
    for view in (*views, late):
        await view.aclose()


async def test_cards(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(ModelSpec("ns", "comp", "ep", card={"size": 7}))
    await discovery.register(ModelSpec("ns", "comp", "ep", card={"size": 1}, model_suffix="lora"))
    assert await discovery.list(models(), where=lambda card: card.card["size"] > 3) == [mine]


async def test_a_function_that_raises_does_not_match(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = await registry.join()
    good = await discovery.register(spec("good", weight=1))
    for number in range(20):
        await discovery.register(spec(f"bad{number}"))

    def heavy(instance: EndpointInstance) -> bool:
        return bool(instance.metadata["weight"] > 0)

    assert await discovery.list(endpoints(), where=heavy) == [good]
    async with discovery.view(endpoints(), where=heavy) as view:
        assert view.instances == (good,)
        await discovery.register(spec("late"))
        better = await discovery.update(good, metadata={"weight": 2})
        await eventually(lambda: view.instances == (better,), PATIENCE)
    assert discovery.stats().task_failures == 41
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "endpoints" in line.getMessage()
    assert "does not match" in line.getMessage()


async def test_functions_that_make_no_sense_are_refused(registry: Registry) -> None:
    discovery = await registry.join()

    async def later(_: EndpointInstance) -> bool:
        return True

    for wrong in (later, "gpu", 3):
        with pytest.raises(InvalidValueError, match="where"):
            discovery.view(endpoints(), where=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="where"):
            discovery.list_and_watch(endpoints(), where=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="where"):
            await discovery.list(endpoints(), where=wrong)  # type: ignore[arg-type]
    await registry.join()
    await discovery.register(spec())
    assert await discovery.list(endpoints(), where=lambda one: later(one)) == []  # a coroutine is no answer


async def test_a_view_that_was_closed_keeps_what_matched() -> None:
    async with natsdisc.Discovery(MemoryStore(clock=ManualClock()), lease_ttl=None) as discovery:
        mine = await discovery.register(spec(gpu=1))
        async with discovery.view(endpoints(), where=is_gpu) as view:
            pass
        await discovery.update(mine, metadata={})
        assert view.instances == (mine,)
