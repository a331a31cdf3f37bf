"""Calls that are tried on another instance when they fail; events with a replay; services. On both stores."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import nats.errors
import pytest

import natsdisc
from natsdisc import (
    Added,
    EndpointInstance,
    EndpointSpec,
    InvalidValueError,
    Kind,
    ModelSpec,
    NoInstanceError,
    RemovalReason,
    Removed,
    Transport,
    endpoints,
)
from natsdisc.balance import LeastOutstanding
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0


def spec(name: str = "ep", namespace: str = "ns", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "comp", name, transport=Transport.nats("addr"), metadata=metadata)


class Requests:
    """A user's function: it fails for the instances that are `dead`."""

    def __init__(self, error: type[BaseException] = ConnectionRefusedError) -> None:
        self.error = error
        self.dead: set[natsdisc.InstanceId] = set()
        self.tried: list[EndpointInstance] = []

    async def __call__(self, instance: EndpointInstance) -> str:
        self.tried.append(instance)
        await asyncio.sleep(0)
        if instance.id in self.dead:
            raise self.error(f"{instance.endpoint} refused")
        return instance.endpoint


async def filled(registry: Registry, names: str) -> tuple[natsdisc.Discovery, list[EndpointInstance]]:
    discovery = await registry.join()
    return discovery, [await discovery.register(spec(name)) for name in names]


async def test_another_instance_is_tried_and_the_failed_one_is_set_aside(registry: Registry) -> None:
    discovery, (one, two, three) = await filled(registry, "abc")
    async with discovery.view(endpoints()) as view:
        requests = Requests()
        requests.dead = {one.id}
        assert {await view.call(requests) for _ in range(6)} == {"b", "c"}
        assert Counter(requests.tried)[one] == 1
        assert {view.pick() for _ in range(4)} == {two, three}
        assert {view.pick(f"user-{number}") for number in range(50)} == {two, three}


async def test_with_a_key(registry: Registry) -> None:
    discovery, _ = await filled(registry, "abc")
    async with discovery.view(endpoints()) as view:
        requests = Requests()
        first = view.pick("user-7")
        assert await view.call(requests, key="user-7") == first.endpoint
        requests.dead = {first.id}
        instead = await view.call(requests, key="user-7")
        assert instead != first.endpoint
        assert [await view.call(requests, key="user-7") for _ in range(5)] == [instead] * 5


async def test_the_last_error_is_raised_as_it_is_with_a_note(registry: Registry) -> None:
    discovery, instances = await filled(registry, "abcd")
    async with discovery.view(endpoints("ns", "comp")) as view:
        requests = Requests()
        requests.dead = {one.id for one in instances}
        for attempts in (1, 2, 4):
            requests.tried.clear()
            with pytest.raises(ConnectionRefusedError) as caught:
                await view.call(requests, attempts=attempts)
            assert len(set(requests.tried)) == len(requests.tried) == attempts
            assert str(caught.value) == f"{requests.tried[-1].endpoint} refused"
            [note] = caught.value.__notes__
            assert f"endpoints/ns/comp failed after {attempts} attempt" in note
            assert all(str(one.id) in note for one in requests.tried)
        requests.tried.clear()
        with pytest.raises(ConnectionRefusedError):
            await view.call(requests, attempts=6)  # nobody else: those that failed longest ago
        assert set(requests.tried[:4]) == set(instances)
        assert len(requests.tried) == 6


async def test_a_single_instance_is_tried_again(registry: Registry) -> None:
    discovery, (one,) = await filled(registry, "a")
    async with discovery.view(endpoints()) as view:
        requests = Requests()
        requests.dead = {one.id}
        with pytest.raises(ConnectionRefusedError):
            await view.call(requests)
        assert requests.tried == [one, one]


async def test_nobody_to_call(registry: Registry) -> None:
    discovery, _ = await filled(registry, "")
    async with discovery.view(endpoints()) as view:
        with pytest.raises(NoInstanceError, match="endpoints: 0 instances"):
            await view.call(Requests())


async def test_all_left_meanwhile(registry: Registry) -> None:
    discovery, (one,) = await filled(registry, "a")
    async with discovery.view(endpoints()) as view:

        async def fail(instance: EndpointInstance) -> None:
            await discovery.unregister(instance)
            await eventually(lambda: not len(view), PATIENCE)
            raise ConnectionResetError("gone")

        with pytest.raises(ConnectionResetError, match="gone"):
            await view.call(fail, attempts=5)
    assert one.endpoint == "a"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError, True),
        (TimeoutError, True),
        (OSError, True),
        (nats.errors.NoRespondersError, True),
        (nats.errors.TimeoutError, True),
        (ValueError, False),
        (natsdisc.StoreUnavailableError, False),  # it is not the instance's fault
        (KeyError, False),
    ],
)
async def test_what_is_tried_again(error: type[Exception], again: bool) -> None:
    class Failure(error):  # type: ignore[misc, valid-type]
        def __init__(self, _: str) -> None:
            super().__init__()

    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery:
        instances = [await discovery.register(spec(name)) for name in "ab"]
        async with discovery.view(endpoints()) as view:
            requests = Requests(Failure)
            requests.dead = {one.id for one in instances}
            with pytest.raises(error):
                await view.call(requests)
            assert len(requests.tried) == (2 if again else 1)
            assert len({view.pick() for _ in range(4)}) == 2  # all, or none of them, set aside
            assert bool(view._choice.ejections) is again


async def test_retry_on() -> None:
    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery:
        instances = [await discovery.register(spec(name)) for name in "ab"]
        async with discovery.view(endpoints()) as view:
            for retry_on in (KeyError, (ValueError, LookupError)):
                requests = Requests(KeyError)
                requests.dead = {instances[0].id}
                for _ in range(3):
                    await view.call(requests, retry_on=retry_on)
                assert instances[0] in requests.tried
                await discovery.unregister(instances[0])
                await discovery.register(spec("a"))
                await eventually(lambda: not view._choice.ejections)
            requests = Requests()
            requests.dead = {one.id for one in instances}
            with pytest.raises(ConnectionRefusedError):
                await view.call(requests, retry_on=())
            assert len(requests.tried) == 1


async def test_a_timeout_is_for_each_attempt(registry: Registry) -> None:
    discovery, (one, _) = await filled(registry, "ab")

    async def work(instance: EndpointInstance) -> str:
        if instance.id == one.id:
            await asyncio.Event().wait()
        return instance.endpoint

    async with discovery.view(endpoints()) as view, asyncio.timeout(PATIENCE):
        assert {await view.call(work, timeout=0.05) for _ in range(3)} == {"b"}
        with pytest.raises(TimeoutError) as caught:
            await view.call(lambda _: asyncio.Event().wait(), timeout=0.02)
        assert "2 attempts" in caught.value.__notes__[0]


async def test_a_cancellation_passes_at_once(registry: Registry) -> None:
    discovery, _ = await filled(registry, "ab")
    balance = LeastOutstanding()
    async with discovery.view(endpoints(), balance=balance) as view:
        calls: list[EndpointInstance] = []

        async def hang(instance: EndpointInstance) -> None:
            calls.append(instance)
            await asyncio.Event().wait()

        calling = asyncio.create_task(view.call(hang))
        await eventually(lambda: calls)
        assert sum(balance._outstanding.values()) == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert len(calls) == 1
        assert not balance._outstanding
        assert not view._choice.ejections


async def test_work_in_flight_is_counted_and_ends(registry: Registry) -> None:
    discovery, (one, two) = await filled(registry, "ab")
    balance = LeastOutstanding()
    async with discovery.view(endpoints(), balance=balance) as view:
        ended = asyncio.Event()

        async def work(instance: EndpointInstance) -> EndpointInstance:
            await ended.wait()
            return instance

        calls = []
        for _ in range(6):
            calls.append(asyncio.create_task(view.call(work)))
            await asyncio.sleep(0)
        assert sorted(balance._outstanding.values()) == [3, 3]
        ended.set()
        assert set(await asyncio.gather(*calls)) == {one, two}
        assert not balance._outstanding
        requests = Requests()
        requests.dead = {one.id, two.id}
        with pytest.raises(ConnectionRefusedError):
            await view.call(requests)
        assert not balance._outstanding


async def test_after_a_failure_the_instance_that_answered_last_is_tried() -> None:
    """Half of 20 are dead, and nothing tells yet: a client fails until something has answered."""
    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery:
        instances = [await discovery.register(spec(f"ep{number}")) for number in range(20)]
        for number in range(10):
            async with discovery.view(endpoints()) as view:
                requests = Requests()
                requests.dead = {one.id for one in instances[number : number + 10]}
                answered = False
                for _ in range(30):
                    try:
                        await view.call(requests)
                        answered = True
                    except ConnectionRefusedError:
                        assert not answered


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"attempts": True}, {"attempts": 1.5}, {"timeout": 0}])
async def test_arguments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery, discovery.view(endpoints()) as view:
        with pytest.raises(InvalidValueError, match=next(iter(wrong))):
            await view.call(Requests(), **wrong)
        with pytest.raises(InvalidValueError, match="retry_on"):
            await view.call(Requests(), retry_on="all")  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="function"):
            await view.call("all")  # type: ignore[arg-type]


class TestReplay:
    async def test_the_present_instances_come_first(self, registry: Registry) -> None:
        discovery, present = await filled(registry, "ba")
        async with discovery.view(endpoints()) as view:
            heard: list[natsdisc.Event] = []
            without: list[natsdisc.Event] = []
            unsubscribe = view.subscribe(heard.append, replay=True)
            view.subscribe(without.append)
            assert heard == [Added(one) for one in sorted(present, key=lambda one: one.id)]
            late = await discovery.register(spec("c"))
            await discovery.unregister(present[0])
            await eventually(lambda: len(heard) == 4, PATIENCE)
            assert heard[2:] == without == [Added(late), Removed(present[0].id, RemovalReason.UNREGISTERED)]
            unsubscribe()
            again: list[natsdisc.Event] = []
            view.subscribe(again.append, replay=True)
            assert again == [Added(one) for one in view.instances]

    async def test_nothing_is_missed_or_doubled(self, registry: Registry) -> None:
        """Whenever it is called: the events lead to what the view shows."""
        service, client = await registry.join(), await registry.join()
        view = client.view(endpoints())
        shown: list[dict[Any, EndpointInstance]] = []

        def follow() -> None:
            known: dict[Any, EndpointInstance] = {}
            shown.append(known)

            def hear(event: Added[EndpointInstance] | Removed[EndpointInstance]) -> None:
                match event:
                    case Added(instance):
                        assert known.get(instance.id) != instance
                        known[instance.id] = instance
                    case Removed(id):
                        del known[id]

            view.subscribe(hear, replay=True)

        for number in range(10):
            follow()
            mine = await service.register(spec(f"ep{number}"))
            if number % 3 == 0:
                await service.unregister(mine)
        await eventually(lambda: [one.endpoint for one in view] == [f"ep{n}" for n in (1, 2, 4, 5, 7, 8)])
        assert shown == [{one.id: one for one in view}] * 10
        assert client.stats().task_failures == 0
        await view.aclose()

    async def test_a_callback_that_fails_in_it_is_counted(self, registry: Registry) -> None:
        discovery, _ = await filled(registry, "ab")
        async with discovery.view(endpoints()) as view:
            view.subscribe(lambda event: 1 // 0, replay=True)
            assert discovery.stats().task_failures == 2


class TestServices:
    async def test_places_and_their_number(self, registry: Registry) -> None:
        discovery, other = await registry.join(), await registry.join()
        assert await discovery.services() == []
        for name, namespace in (("a", "ns"), ("b", "ns"), ("a", "odd name")):
            await discovery.register(spec(name, namespace))
        await other.register(spec("a"))
        await other.register(ModelSpec("ns", "comp", "m", card=1))
        await other.register(ModelSpec("ns", "comp", "m", card=1, model_suffix="lora"))
        found = await discovery.services()
        assert found == [("ns", "comp", "a", 2), ("ns", "comp", "b", 1), ("odd name", "comp", "a", 1)]
        assert (found[0].endpoint, found[0].instances) == ("a", 2)
        assert await discovery.services(kind=Kind.MODEL) == [("ns", "comp", "m", 2)]
        assert len(await discovery.list(endpoints(*found[0][:3]))) == 2

    async def test_a_kind_that_is_none(self, registry: Registry) -> None:
        discovery = await registry.join()
        with pytest.raises(InvalidValueError, match="Kind"):
            await discovery.services(kind="nonsense")  # type: ignore[arg-type]
