"""A process gets in, stays in and leaves well: announce, registered, keep, check, leases. Both stores."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    Added,
    AlreadyRegisteredError,
    ClosedError,
    EndpointSpec,
    ModelSpec,
    NotReadyError,
    State,
    Status,
    StoreUnavailableError,
    Transport,
    endpoints,
    models,
)
from tests.rig import eventually

from .conftest import Registry
from .test_cancellation import cancelled_everywhere


def spec(name: str = "ep", at: str = "addr", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats(at), metadata=metadata)


def break_creates(discovery: natsdisc.Discovery, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let `create` find no server until the list that is returned is emptied."""
    bucket, failing = discovery._store.bucket("v1_instances"), [1]
    create = bucket.create

    async def fails(*args: Any, **options: Any) -> Any:
        if failing:
            failing.append(1)
            raise StoreUnavailableError("away")
        return await create(*args, **options)

    monkeypatch.setattr(bucket, "create", fails)
    return failing


class TestAnnounce:
    async def test_it_returns_at_once_and_becomes_active(self, registry: Registry) -> None:
        states: list[State] = []
        service = await registry.join(on_state=lambda one: states.append(one.state))
        registration = service.announce(spec())
        assert (registration.state, registration.revision, registration.error) == (State.PENDING, 0, None)
        assert service.registrations == (registration,)
        async with asyncio.timeout(10):
            mine = await registration.active()
        assert await service.list(endpoints()) == [mine]
        assert registration.revision > 0
        assert states == [State.ACTIVE]
        assert service.announce(spec()) is registration
        assert await service.register(spec()) == mine

    async def test_what_can_pass_is_waited_out(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = await registry.join()
        failing = break_creates(service, monkeypatch)
        registration = service.announce(spec())
        await eventually(lambda: len(failing) > 3)
        assert registration.state is State.PENDING
        assert "away" in str(registration.error)
        assert service.stats().registrations["pending"] == 1
        await eventually(lambda: "is not registered yet" in caplog.text)
        failing.clear()
        async with asyncio.timeout(10):
            await registration.active()
        assert registration.error is None

    async def test_another_value_of_another_process_makes_it_failed(self, registry: Registry) -> None:
        one, two = await registry.join(instance_id=1), await registry.join(instance_id=1)
        theirs = await one.register(spec(at="one"))
        registration = two.announce(spec(at="two"))
        with pytest.raises(AlreadyRegisteredError) as caught:
            async with asyncio.timeout(10):
                await registration.active()
        assert caught.value.existing == theirs
        assert (registration.state, registration.error) == (State.FAILED, caught.value)
        await two.unregister(registration.id)
        assert two.registrations == ()
        assert await two.list(endpoints()) == [theirs]

    async def test_another_value_of_this_process_is_refused_at_once(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec(at="one"))
        with pytest.raises(AlreadyRegisteredError) as caught:
            service.announce(spec(at="two"))
        assert caught.value.existing == mine

    @pytest.mark.parametrize("end", ["unregister", "close"])
    async def test_a_pending_one_ends(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        service, other = await registry.join(), await registry.join()
        failing = break_creates(service, monkeypatch)
        registration = service.announce(spec())
        waiting = asyncio.create_task(registration.active())
        await eventually(lambda: len(failing) > 1)
        if end == "unregister":
            await service.unregister(registration.id)
        else:
            await service.close()
        with pytest.raises(ClosedError):
            await waiting
        assert (registration.state, service.registrations) == (State.FAILED, ())
        assert await other.list(endpoints()) == []

    async def test_one_whose_answer_was_lost_is_taken_back(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service, other = await registry.join(lease_ttl=60), await registry.join()
        bucket = service._store.bucket("v1_instances")
        create, written = bucket.create, asyncio.Event()

        async def answered_too_late(*args: Any, **options: Any) -> Any:
            await create(*args, **options)
            written.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(bucket, "create", answered_too_late)
        service.announce(spec())
        async with asyncio.timeout(10):
            await written.wait()
        assert len(await other.list(endpoints())) == 1
        await service.close()
        assert await other.list(endpoints()) == []

    async def test_a_pending_one_can_be_updated(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = await registry.join()
        failing = break_creates(service, monkeypatch)
        registration = service.announce(spec())
        await service.update(registration.instance, metadata={"a": 1})
        failing.clear()
        async with asyncio.timeout(10):
            now = await registration.active()
        assert isinstance(now, natsdisc.EndpointInstance)
        assert now.metadata == {"a": 1}

    async def test_it_can_be_renewed_and_lost_like_any_other(self, registry: Registry) -> None:
        service, client = await registry.join(lease_ttl=1), await registry.join()
        registration = service.announce(spec())
        async with asyncio.timeout(10):
            mine = await registration.active()
        await client.unregister(mine)
        await eventually(lambda: service.stats().reregistrations)
        assert registration.state is State.ACTIVE
        assert await client.list(endpoints()) == [mine]


class TestRegistered:
    async def test_the_last_one_out_unregisters(self, registry: Registry) -> None:
        service = await registry.join()
        async with service.registered(spec()) as mine:
            async with service.registered(spec()) as same:
                assert same == mine
            assert await service.list(endpoints()) == [mine]
        assert await service.list(endpoints()) == []
        assert service.registrations == ()

    async def test_concurrent_holders(self, registry: Registry) -> None:
        service = await registry.join()
        inside, most = 0, 0

        async def hold(number: int) -> None:
            nonlocal inside, most
            async with service.registered(spec()) as mine:
                inside += 1
                most = max(most, inside)
                for _ in range(number):
                    await asyncio.sleep(0)
                assert await service.list(endpoints()) == [mine]
                inside -= 1

        await asyncio.gather(*map(hold, range(0, 40, 3)))
        assert most > 1
        assert await service.list(endpoints()) == []

    async def test_one_that_was_registered_beside_it_stays(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        async with service.registered(spec()):
            pass
        assert await service.list(endpoints()) == [mine]

    async def test_an_error_in_the_block_is_raised_as_it_is(self, registry: Registry) -> None:
        service = await registry.join()
        with pytest.raises(KeyError):
            async with service.registered(spec()):
                raise KeyError("the user's")
        assert await service.list(endpoints()) == []

    async def test_an_error_of_leaving_does_not_hide_that_of_the_block(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = await registry.join()
        bucket = service._store.bucket("v1_instances")

        async def fails(*args: Any, **options: Any) -> Any:
            raise StoreUnavailableError("away")

        with pytest.raises(KeyError):
            async with service.registered(spec()):
                monkeypatch.setattr(bucket, "delete", fails)
                raise KeyError("the user's")
        assert "away" in caplog.text
        with pytest.raises(StoreUnavailableError):
            async with service.registered(spec("other")):
                pass

    async def test_cancelled_at_every_await(self, registry: Registry) -> None:
        service = await registry.join()

        async def hold(number: int) -> None:
            async with service.registered(spec()):
                await asyncio.sleep(0)

        assert await cancelled_everywhere(hold) > 2
        assert await service.list(endpoints()) == []
        assert service.registrations == ()

    async def test_one_that_is_cancelled_leaves_the_other_holders(self, registry: Registry) -> None:
        service = await registry.join()
        async with service.registered(spec()) as mine:
            for turns in range(0, 30, 2):
                task = asyncio.create_task(service.registered(spec()).__aenter__())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                    break  # it got through, and holds
                assert await service.list(endpoints()) == [mine]

    async def test_a_discovery_that_is_closed_inside(self, registry: Registry) -> None:
        service, other = await registry.join(), await registry.join()
        async with service.registered(spec()):
            await service.close()
        assert await other.list(endpoints()) == []


class TestKeep:
    @pytest.mark.parametrize("ttl", [30.0, None])
    async def test_a_restart_with_the_same_spec_is_never_seen(
        self, registry: Registry, ttl: float | None
    ) -> None:
        watcher = await registry.join(expiry_grace=0.0)
        first = await registry.join(instance_id=1, lease_ttl=ttl)
        mine = await first.register(spec())
        card = await first.register(ModelSpec("ns", "comp", "ep", card={"a": 1}))
        async with watcher.list_and_watch(endpoints()) as events, asyncio.timeout(20):
            assert await anext(events) == Added(mine)
            await first.close(keep=True)
            second = await registry.join(instance_id=1, lease_ttl=ttl)
            assert await second.register(spec()) == mine
            other = await second.register(spec("other"))
            assert await anext(events) == Added(other)  # and nothing before it
        assert await watcher.list(models()) == [card]
        assert second.registrations[0].state is State.ACTIVE

    async def test_another_spec_takes_the_place_of_what_was_left(self, registry: Registry) -> None:
        watcher = await registry.join(expiry_grace=0.0)
        first = await registry.join(instance_id=1, lease_ttl=30.0)
        mine = await first.register(spec(at="one"))
        async with watcher.list_and_watch(endpoints()) as events, asyncio.timeout(20):
            assert await anext(events) == Added(mine)
            await first.close(keep=True)
            second = await registry.join(instance_id=1, lease_ttl=30.0)
            now = await second.register(spec(at="two"))
            assert now.transport.address == "two"
            assert await anext(events) == Added(now)

    async def test_what_is_held_is_not_taken(self, registry: Registry) -> None:
        first = await registry.join(instance_id=1, lease_ttl=30.0)
        await first.register(spec(at="one"))
        second = await registry.join(instance_id=1, lease_ttl=30.0)
        with pytest.raises(AlreadyRegisteredError):
            await second.register(spec(at="two"))

    async def test_without_a_next_process_the_lease_ends(self, registry: Registry) -> None:
        watcher = await registry.join()
        first = await registry.join(instance_id=1, lease_ttl=1.0)
        await first.register(spec())
        await first.close(keep=True)
        assert len(await watcher.list(endpoints())) == 1

        async def gone() -> bool:
            return await watcher.list(endpoints()) == []

        await eventually(gone)

    async def test_what_waits_hears_of_it(self, registry: Registry) -> None:
        service = await registry.join()
        view = service.view(endpoints())
        watch = service.list_and_watch(endpoints())
        await watch.synced()
        waits: list[asyncio.Future[Any]] = [
            asyncio.create_task(view.wait_for(5)),
            asyncio.create_task(view.changed()),
            asyncio.ensure_future(anext(watch, None)),
        ]
        await asyncio.sleep(0)
        registration = service.announce(spec())
        waits.append(asyncio.create_task(registration.active()))
        await service.close(keep=True)
        async with asyncio.timeout(5):
            done = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(done[0], ClosedError)
        assert registration.state is State.FAILED
        with pytest.raises(ClosedError):
            await registration.active()

    async def test_drain_and_keep_exclude_each_other(self, registry: Registry) -> None:
        service = await registry.join()
        with pytest.raises(natsdisc.InvalidValueError, match="exclude"):
            await service.close(drain=1.0, keep=True)


class TestTakeover:
    @pytest.mark.parametrize("status", [Status.DRAINING, Status.DISABLED])
    @pytest.mark.parametrize("keep", [True, False])
    async def test_an_operators_status_stays(self, registry: Registry, status: Status, keep: bool) -> None:
        operator = await registry.join()
        first = await registry.join(instance_id=1, lease_ttl=30.0)
        mine = await first.register(spec())
        await operator.set_status(mine, status)
        if keep:
            await first.close(keep=True)
        else:
            first._registrar.abandon()
        second = await registry.join(instance_id=1, lease_ttl=30.0)
        now = await second.register(spec())
        assert now == dataclasses.replace(mine, status=status)
        assert await operator.list(endpoints()) == [now]
        moved = await second.update(now, metadata={"a": 1})
        assert moved.status is status

    async def test_with_another_spec_too(self, registry: Registry) -> None:
        operator = await registry.join()
        first = await registry.join(instance_id=1, lease_ttl=30.0)
        await operator.set_status(await first.register(spec()), Status.DISABLED)
        await first.close(keep=True)
        second = await registry.join(instance_id=1, lease_ttl=30.0)
        now = await second.register(spec(at="two"))
        assert (now.transport.address, now.status) == ("two", Status.DISABLED)
        assert await operator.list(endpoints()) == [now]

    async def test_what_a_health_check_left_does_not(self, registry: Registry) -> None:
        first = await registry.join(instance_id=1, lease_ttl=30.0)
        await first.set_status(await first.register(spec()), Status.UNHEALTHY)
        await first.close(keep=True)
        second = await registry.join(instance_id=1, lease_ttl=30.0)
        mine = await second.register(spec())
        assert mine.status is Status.SERVING
        assert await second.list(endpoints()) == [mine]
        assert (await second.update(mine, metadata={"a": 1})).metadata == {"a": 1}

    async def test_registering_again_keeps_the_status(self, registry: Registry) -> None:
        service = await registry.join()
        mine = await service.register(spec())
        drained = await service.drain(mine)
        assert await service.register(spec()) == drained
        assert await service.list(endpoints()) == [drained]


class TestCheck:
    async def test_it_returns_when_all_is_well(self, registry: Registry) -> None:
        service = await registry.join()
        await service.check()
        await service.register(spec())
        view = service.view(endpoints())
        await service.check(timeout=10)
        assert view.synced

    async def test_it_says_all_that_is_not(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        one = await registry.join(instance_id=1)
        await (await registry.join(instance_id=1)).register(spec(at="two"))
        failed = one.announce(spec(at="one"))
        await eventually(lambda: failed.state is State.FAILED)
        break_creates(one, monkeypatch)
        one.announce(spec("pending"))
        with pytest.raises(NotReadyError, match=r"failed.*pending") as caught:
            await one.check(timeout=10)
        assert len(caught.value.reasons) == 2

    async def test_it_is_bounded(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        service = await registry.join()
        break_creates(service, monkeypatch)
        service.announce(spec())
        async with asyncio.timeout(5):
            with pytest.raises(NotReadyError, match="pending"):
                await service.check(timeout=0.1)

    async def test_a_closed_one_is_closed(self, registry: Registry) -> None:
        service = await registry.join()
        await service.close()
        with pytest.raises(ClosedError):
            await service.check()


async def test_remaining_lease_times(registry: Registry) -> None:
    service = await registry.join(lease_ttl=60.0)
    mine = await service.register(spec())
    await service.register(spec("stays"), lease_ttl=None)
    other = await service.register(EndpointSpec("other", "comp", "ep", transport=Transport.tcp("h:1")))
    left = await service.leases(endpoints())
    assert set(left) == {mine.id, other.id}
    assert all(50 < seconds <= 61 for seconds in left.values())
    assert set(await service.leases(endpoints("ns"))) == {mine.id}
    assert await service.leases(models()) == {}


async def test_a_revision_rejects_a_zombie(registry: Registry) -> None:
    """The newest owner of an id has the highest revision."""
    zombie = await registry.join(instance_id=1, lease_ttl=1.0)
    mine = await zombie.register(spec())
    [old] = zombie.registrations
    zombie._registrar._upkeep.renewals.stop()  # as if it hung

    async def gone() -> bool:
        return await other.list(endpoints()) == []

    other = await registry.join(instance_id=1, lease_ttl=1.0)
    await eventually(gone)
    assert await other.register(spec()) == mine
    [new] = other.registrations
    assert new.revision > old.revision
