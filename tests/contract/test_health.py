"""Status and health checks: who sets what, and what stays. Both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    Added,
    ConflictError,
    EndpointInstance,
    EndpointSpec,
    InvalidValueError,
    ModelSpec,
    State,
    Status,
    Transport,
    endpoints,
)
from tests.rig import eventually

from .conftest import Registry

INTERVAL = 0.05


def spec(name: str = "ep", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"), metadata=metadata)


class Dependency:
    """The subject of a check; `answer` is returned, or raised if it is an exception, or awaited for ever."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.asked = 0
        self.running = 0

    async def check(self) -> object:
        self.asked += 1
        self.running += 1
        try:
            if self.answer == "hangs":
                await asyncio.Event().wait()
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer
        finally:
            self.running -= 1


async def until(discovery: natsdisc.Discovery, status: Status) -> EndpointInstance:
    async def is_so() -> bool:
        [instance] = await discovery.list(endpoints())
        return instance.status is status

    await eventually(is_so)
    [instance] = await discovery.list(endpoints())
    return instance


class TestStatus:
    @pytest.mark.parametrize("status", Status)
    async def test_of_ones_own_and_of_another_process(self, registry: Registry, status: Status) -> None:
        service, operator = await registry.join(), await registry.join()
        mine = await service.register(spec(zone="a"))
        for client in (service, operator):
            now = await client.set_status(mine, status)
            assert now == dataclasses.replace(mine, status=status)
            assert await operator.list(endpoints()) == [now]
            await client.set_status(mine, Status.SERVING)
        assert await operator.list(endpoints()) == [mine]

    async def test_a_text_does_and_any_other_is_refused(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        assert (await service.set_status(mine, "disabled")).status is Status.DISABLED
        with pytest.raises(InvalidValueError, match="serving, draining"):
            await service.set_status(mine, "off")
        card: Any = await service.register(ModelSpec("ns", "comp", "ep", card=1))
        with pytest.raises(InvalidValueError, match="EndpointInstance"):
            await service.set_status(card, Status.DISABLED)

    async def test_an_old_picture_of_the_instance_will_do(self, registry: Registry) -> None:
        service, operator = await registry.join(), await registry.join()
        mine = await service.register(spec())
        newer = await service.update(mine, metadata={"a": 1})
        assert await operator.set_status(mine, Status.DISABLED) == dataclasses.replace(
            newer, status=Status.DISABLED
        )

    async def test_one_that_is_gone_is_a_conflict(self, registry: Registry) -> None:
        service, operator = await registry.join(), await registry.join()
        mine = await service.register(spec())
        await service.unregister(mine)
        with pytest.raises(ConflictError, match="nothing"):
            await operator.set_status(mine, Status.DISABLED)

    async def test_many_at_once_lose_nothing(self, registry: Registry) -> None:
        service, operator = await registry.join(lease_ttl=60), await registry.join()
        mine = await service.register(spec())
        await asyncio.gather(
            operator.set_status(mine, Status.DISABLED),
            service.update(mine, metadata={"a": 1}),
            service.update(mine, transport=Transport.tcp("h:1")),
        )
        [now] = await operator.list(endpoints())
        assert (now.status, now.metadata, now.transport.address) == (Status.DISABLED, {"a": 1}, "h:1")

    async def test_a_services_own_update_cancels_no_drain(self, registry: Registry) -> None:
        service, operator = await registry.join(), await registry.join()
        mine = await service.register(spec())
        await service.drain(mine)
        assert (await service.update(mine, metadata={"a": 1})).status is Status.DRAINING
        await operator.set_status(mine, Status.DISABLED)
        assert (await service.update(mine, metadata={"a": 2})).status is Status.DISABLED

    async def test_it_survives_a_removal_by_another_client(self, registry: Registry) -> None:
        service, operator = await registry.join(lease_ttl=1), await registry.join()
        mine = await service.register(spec())
        disabled = await operator.set_status(mine, Status.DISABLED)
        await eventually(lambda: service.registrations[0].instance == disabled)
        await operator.unregister(mine)
        await eventually(lambda: service.stats().reregistrations >= 2)
        assert await operator.list(endpoints()) == [disabled]

    async def test_the_revision_grows_with_it(self, registry: Registry) -> None:
        service, operator = await registry.join(lease_ttl=1), await registry.join()
        mine = await service.register(spec())
        [held] = service.registrations
        before = held.revision
        await operator.set_status(mine, Status.DISABLED)
        await eventually(lambda: held.revision > before)

    async def test_closing_leaves_a_disabled_one_disabled(self, registry: Registry) -> None:
        service, operator = await registry.join(), await registry.join()
        mine = await service.register(spec())
        await service.set_status(mine, Status.DISABLED)
        closing = asyncio.create_task(service.close(drain=0.5))
        async with operator.view(endpoints()) as view:
            statuses = {one.status for one in view}
            while not closing.done():
                await asyncio.sleep(0.01)
                statuses |= {one.status for one in view}
        await closing
        assert statuses <= {Status.DISABLED}


class TestHealth:
    @pytest.mark.parametrize("failure", [False, 0, ValueError("broken"), "hangs"])
    async def test_a_failing_check_takes_it_out_and_a_good_one_brings_it_back(
        self, registry: Registry, failure: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        dependency = Dependency()
        service, client = await registry.join(), await registry.join()
        mine = await service.register(spec(), health=dependency.check, health_interval=INTERVAL)
        assert mine.status is Status.SERVING
        await eventually(lambda: dependency.asked > 2)
        assert await client.list(endpoints()) == [mine]
        for _ in range(2):
            dependency.answer = failure
            await until(client, Status.UNHEALTHY)
            dependency.answer = True
            assert await until(client, Status.SERVING) == mine
        assert "is unhealthy now" in caplog.text
        assert "succeeds again" in caplog.text

    async def test_one_failed_answer_takes_it_out_of_rotation(self, registry: Registry) -> None:
        """So that takes one interval at most: the next answer would come in an hour."""
        ill, well, client = await registry.join(), await registry.join(), await registry.join()
        dependency = Dependency(False)
        async with client.view(endpoints()) as view:
            await well.register(spec())
            mine = await ill.register(spec(), health=dependency.check, health_interval=3600)
            await eventually(lambda: [one.status for one in view if one.id == mine.id] == [Status.UNHEALTHY])
            assert {view.pick().instance_id for _ in range(20)} == {well.instance_id}
            assert dependency.asked == 1

    async def test_one_that_returns_nothing_is_good(self, registry: Registry) -> None:
        dependency = Dependency(None)
        service = await registry.join()
        mine = await service.register(spec(), health=dependency.check, health_interval=INTERVAL)
        await eventually(lambda: dependency.asked > 3)
        assert await service.list(endpoints()) == [mine]

    async def test_thresholds(self, registry: Registry) -> None:
        answers = [False, False, True, False, False, False]
        statuses: list[Status] = []
        service = await registry.join()

        async def check() -> bool:
            if service.registrations:
                statuses.append(service.registrations[0].instance.status)  # type: ignore[union-attr]
            return answers.pop(0) if answers else True

        await service.register(
            spec(), health=check, health_interval=INTERVAL, health_failures=3, health_successes=2
        )
        await eventually(lambda: len(statuses) >= 9)
        bad = [number for number, status in enumerate(statuses) if status is Status.UNHEALTHY]
        assert len(bad) == 2  # after the sixth answer, and until the second good one
        assert bad[1] == bad[0] + 1

    @pytest.mark.parametrize("status", [Status.DRAINING, Status.DISABLED])
    async def test_an_operators_status_stays(self, registry: Registry, status: Status) -> None:
        dependency = Dependency()
        service, operator = await registry.join(lease_ttl=1), await registry.join()
        mine = await service.register(spec(), health=dependency.check, health_interval=INTERVAL)
        await operator.set_status(mine, status)
        seen = set()
        for answer in (False, True, False, True):
            dependency.answer, asked = answer, dependency.asked
            await eventually(lambda: dependency.asked > asked + 2)  # noqa: B023
            seen.add((await operator.list(endpoints()))[0].status)
        assert seen == {status}
        dependency.answer = False
        await operator.set_status(mine, Status.SERVING)
        await until(operator, Status.UNHEALTHY)

    async def test_one_that_blocks_holds_up_no_renewal(self, registry: Registry) -> None:
        blocked = asyncio.Event()

        async def check() -> None:
            while True:  # swallows its cancellation
                try:
                    await blocked.wait()
                    return
                except asyncio.CancelledError:
                    continue

        service, client = await registry.join(lease_ttl=1), await registry.join()
        await service.register(spec(), health=check, health_interval=INTERVAL)
        await until(client, Status.UNHEALTHY)
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count > beats + 3)
        assert service.registrations[0].state is State.ACTIVE
        blocked.set()
        await until(client, Status.SERVING)

    async def test_it_ends_with_the_registration(self, registry: Registry) -> None:
        dependency = Dependency("hangs")
        service = await registry.join()
        before = asyncio.all_tasks()
        mine = await service.register(spec(), health=dependency.check, health_interval=60.0)
        await eventually(lambda: dependency.running == 1)
        await service.unregister(mine)
        assert dependency.running == 0
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not {name for name in names if "health" in name}

    async def test_it_ends_with_the_discovery(self, registry: Registry) -> None:
        for keep in (False, True):
            dependency = Dependency("hangs")
            service = await registry.join()
            await service.register(spec(), health=dependency.check, health_interval=60.0)
            await eventually(lambda: dependency.running == 1)  # noqa: B023
            await service.close(keep=keep)
            assert dependency.running == 0

    async def test_a_check_that_unregisters_its_own_instance(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        mine: list[EndpointInstance] = []

        async def check() -> None:
            if mine:
                await service.unregister(mine[0])

        mine.append(await service.register(spec(), health=check, health_interval=INTERVAL))
        await eventually(lambda: service.registrations == ())
        assert await client.list(endpoints()) == []

    async def test_an_announced_one_registers_with_what_its_check_says(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        registration = service.announce(spec(), health=Dependency(False).check, health_interval=INTERVAL)
        async with asyncio.timeout(10):
            await registration.active()
        await until(client, Status.UNHEALTHY)

    async def test_a_new_check_takes_the_place_of_the_old_one(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        old, new = Dependency(False), Dependency()
        await service.register(spec(), health=old.check, health_interval=INTERVAL)
        await until(client, Status.UNHEALTHY)
        await service.register(spec(), health=new.check, health_interval=INTERVAL)
        await until(client, Status.SERVING)
        asked = new.asked
        await eventually(lambda: new.asked > asked + 3)
        assert old.running == 0
        assert (await client.list(endpoints()))[0].status is Status.SERVING

    async def test_watchers_hear_of_it_once(self, registry: Registry) -> None:
        dependency = Dependency()
        service, client = await registry.join(), await registry.join()
        mine = await service.register(spec(), health=dependency.check, health_interval=INTERVAL)
        async with client.list_and_watch(endpoints()) as events, asyncio.timeout(20):
            assert await anext(events) == Added(mine)
            dependency.answer = False
            assert await anext(events) == Added(dataclasses.replace(mine, status=Status.UNHEALTHY))
            asked = dependency.asked
            await eventually(lambda: dependency.asked > asked + 3)
            dependency.answer = True
            assert await anext(events) == Added(mine)

    async def test_a_model_card_has_none(self, registry: Registry) -> None:
        service = await registry.join()
        card = ModelSpec("ns", "comp", "ep", card=1)
        with pytest.raises(InvalidValueError, match="model card"):
            await service.register(card, health=Dependency().check)
        with pytest.raises(InvalidValueError, match="model card"):
            service.announce(card, health=Dependency().check)
