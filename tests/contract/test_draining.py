"""Instances that will leave are left out by pickers, and still serve. On both stores."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import natsdisc
import natsdisc.balance
from natsdisc import (
    Added,
    EndpointInstance,
    ModelSpec,
    Removed,
    Status,
    endpoints,
    models,
)

from .conftest import Registry
from .views import PATIENCE, spec, until


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
        with pytest.raises(natsdisc.InvalidValueError, match="Endpoint"):
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
