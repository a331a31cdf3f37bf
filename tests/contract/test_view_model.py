"""Processes register, update, drain, crash and are reported in any order: views show and pick right."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import natsdisc
from natsdisc import (
    EndpointInstance,
    EndpointSpec,
    ManualClock,
    MemoryStore,
    NoInstanceError,
    Status,
    Transport,
    View,
    endpoints,
)
from natsdisc.balance import Balance, LeastOutstanding, PreferZone, Random, RoundRobin, Weighted
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

_T = TypeVar("_T")
PATIENCE = 20.0
PROCESSES = 3
PLACES = [("ns", "a", "x"), ("ns", "a", "y"), ("ns", "b", "x")]
# Views of one query share what they know, and nothing else.
VIEWS: list[tuple[natsdisc.EndpointQuery, Callable[[], Balance]]] = [
    (endpoints(), RoundRobin),
    (endpoints("ns", "a"), RoundRobin),
    (endpoints("ns", "a", "x"), RoundRobin),
    (endpoints(), Random),
    (endpoints(), LeastOutstanding),
    (endpoints(), Weighted),
    (endpoints("ns", "a"), lambda: PreferZone("near", LeastOutstanding())),
    (endpoints("ns"), Random),
]
# The last view is of a part of the instances, which changes with their metadata.
NEAR = len(VIEWS) - 1
LEASE, GRACE = 2.0, 1.0
# How long a reported instance is out: surely, and at most. What lies between is chance.
SURELY_OUT, SURELY_BACK = 0.25, 30.0
KEYS = [f"user-{number}" for number in range(5)]


def is_near(instance: EndpointInstance) -> bool:
    return bool(instance.metadata.get("zone") == "near")


processes = st.integers(0, PROCESSES - 1)
views = st.sampled_from(range(len(VIEWS)))
anybody = st.integers(0, 2**16)
zones = st.sampled_from(["near", "far"])


class Processes(RuleBasedStateMachine):
    """The machine; its model is who is there, who is dying, and who was reported when."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=True)
        self.numbers = itertools.count(1)
        self.living: list[natsdisc.Discovery] = []
        self.views: list[View[EndpointInstance]] = []
        self.truth: dict[natsdisc.InstanceId, EndpointInstance] = {}
        # Owners that crashed: the id may be seen until then.
        self.dying: dict[natsdisc.InstanceId, float] = {}
        self.crashed: set[natsdisc.InstanceId] = set()
        # For each view: since when an id is surely out, and until when it may be.
        self.reported: list[dict[natsdisc.InstanceId, tuple[float, float]]] = []

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(PATIENCE):
                return await work

        return self.runner.run(bounded())

    # What differs from store to store.

    async def join(self, number: int) -> natsdisc.Discovery:
        raise NotImplementedError

    def now(self) -> float:
        """The time in which reported instances come back."""
        raise NotImplementedError

    async def settled(self, condition: Callable[[], bool]) -> None:
        """Let the views see what was done."""
        await eventually(condition, PATIENCE)

    # The rules.

    @initialize()
    def begin(self) -> None:
        self.client = self.run(self.join(0))
        for number in range(PROCESSES):
            self.living.append(self.run(self.join(next(self.numbers) + number * 1000)))
            self.run(self.registered(self.living[number]))
        for number in range(len(VIEWS)):
            self.views.append(self.run(self.opened(number)))
            self.reported.append({})

    async def opened(self, view: int) -> View[EndpointInstance]:
        query, picker = VIEWS[view]
        where = is_near if view == NEAR else None
        return await self.client.view(query, balance=picker(), where=where).__aenter__()

    @rule(process=processes)
    def register(self, process: int) -> None:
        """Whatever this process does not hold, so that there is somebody to choose."""
        self.run(self.registered(self.living[process]))
        self.settle()

    async def registered(self, discovery: natsdisc.Discovery) -> None:
        for place in PLACES:
            spec = EndpointSpec(*place, transport=Transport.nats("addr"))
            if spec.with_instance_id(discovery.instance_id).id not in self.truth:
                mine = await discovery.register(spec)
                self.truth[mine.id] = mine

    @precondition(lambda self: self.truth)
    @rule(who=anybody)
    def unregister(self, who: int) -> None:
        instance = self.chosen(who)
        self.run(self.owner(instance).unregister(instance))
        del self.truth[instance.id]
        self.settle()
        for reported in self.reported:
            reported.pop(instance.id, None)  # when it comes back it is new

    @precondition(lambda self: self.truth)
    @rule(who=anybody, weight=st.integers(0, 3), zone=zones)
    def update(self, who: int, weight: int, zone: str) -> None:
        instance = self.chosen(who)
        metadata: dict[str, Any] = {
            "weight": weight,
            "zone": zone,
        }
        self.changed(self.run(self.owner(instance).update(instance, metadata=metadata)))

    @precondition(lambda self: self.truth)
    @rule(who=anybody)
    def drain(self, who: int) -> None:
        instance = self.chosen(who)
        self.changed(self.run(self.owner(instance).drain(instance)))

    @precondition(lambda self: self.truth)
    @rule(who=anybody, status=st.sampled_from(Status))
    def set_status(self, who: int, status: Status) -> None:
        instance = self.chosen(who)
        self.changed(self.run(self.owner(instance).set_status(instance, status)))

    def changed(self, instance: EndpointInstance) -> None:
        self.truth[instance.id] = instance
        for reported in self.reported:
            if instance.id in reported:  # whether a change brings it back is not promised
                reported[instance.id] = (0.0, reported[instance.id][1])
        self.settle()

    @precondition(lambda self: self.truth)
    @rule(who=anybody, view=views, times=st.sampled_from([1, 1, 1, 2, 7]))
    def report_failure(self, who: int, view: int, times: int) -> None:
        there = list(self.expected(view).values())
        if there:
            self.run(self.reporting(there[who % len(there)], view, times))

    async def reporting(self, instance: EndpointInstance, view: int, times: int) -> None:
        for _ in range(times):
            self.views[view].report_failure(instance.id)
        if self.views[view].get(instance.id) is not None:
            sure, _ = self.reported[view].get(instance.id, (0.0, 0.0))
            self.reported[view][instance.id] = (
                max(sure, self.now() + SURELY_OUT),
                self.now() + SURELY_BACK,
            )

    @rule(view=views)
    def open_another_view(self, view: int) -> None:
        self.run(self.views[view].aclose())
        self.views[view] = self.run(self.opened(view))
        self.reported[view] = {}

    def chosen(self, who: int) -> EndpointInstance:
        return list(self.truth.values())[who % len(self.truth)]

    def owner(self, instance: EndpointInstance) -> natsdisc.Discovery:
        [owner] = [one for one in self.living if one.instance_id == instance.instance_id]
        return owner

    # What has to hold.

    def settle(self) -> None:
        self.run(self.settled(lambda: all(self.is_true(view) for view in range(len(self.views)))))

    def is_true(self, view: int) -> bool:
        shown = {instance.id: instance for instance in self.views[view] if instance.id not in self.dying}
        return shown == self.expected(view)

    def expected(self, view: int) -> dict[natsdisc.InstanceId, EndpointInstance]:
        return {
            id: instance
            for id, instance in self.truth.items()
            if VIEWS[view][0].matches(id) and (view != NEAR or is_near(instance))
        }

    @invariant()
    def views_show_what_is_there(self) -> None:
        now = self.now() if self.views else 0.0
        self.dying = {id: until for id, until in self.dying.items() if until > now}
        for number, view in enumerate(self.views):
            assert self.is_true(number)
            assert list(view.instances) == sorted(view.instances, key=_place)
            assert len(view) == len(view.instances)

    @invariant()
    def picks_are_right(self) -> None:
        self.run(self.look_at_picks())

    async def look_at_picks(self) -> None:
        for number, view in enumerate(self.views):
            statuses = {one.status for one in view}
            if view.panicking:
                # Lost ones are picked too, those that were unregistered are not.
                picked = {view.pick().id for _ in range(2 * len(VIEWS))} | {view.pick(key).id for key in KEYS}
                assert picked <= {one.id for one in view} | (self.crashed - self.truth.keys())
                continue
            if statuses <= {Status.DISABLED}:
                with pytest.raises(NoInstanceError):
                    view.pick()
                with pytest.raises(NoInstanceError):
                    view.pick("key")
                continue
            async with view.using("some work"):
                picked = {view.pick().id for _ in range(2 * len(view))}
                picked |= {view.pick(key).id for key in KEYS}
            assert picked <= {one.id for one in view if one.status is not Status.DISABLED}
            serving = {id for id, one in self.expected(number).items() if one.status is Status.SERVING}
            available = {id for id in serving if self.is_surely_back(number, id)}
            if available:
                assert picked <= serving | self.dying.keys()
                assert not any(self.is_surely_out(number, id) for id in picked)
                if VIEWS[number][1] is RoundRobin:
                    assert available <= picked

    def is_surely_out(self, view: int, id: natsdisc.InstanceId) -> bool:
        return id in self.reported[view] and self.now() < self.reported[view][id][0]

    def is_surely_back(self, view: int, id: natsdisc.InstanceId) -> bool:
        return id not in self.reported[view] or self.now() >= self.reported[view][id][1]

    def teardown(self) -> None:
        self.run(self.end())
        self.runner.close()

    async def end(self) -> None:
        raise NotImplementedError


def _place(instance: natsdisc.Instance) -> tuple[str, str, str, int]:
    return (instance.namespace, instance.component, instance.endpoint, instance.instance_id)


class InMemory(Processes):
    """On a clock that the machine moves: leases run out, and reported instances come back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.joined: list[natsdisc.Discovery] = []

    async def join(self, number: int) -> natsdisc.Discovery:
        discovery = natsdisc.Discovery(self.store, instance_id=number, lease_ttl=LEASE, expiry_grace=GRACE)
        self.joined.append(discovery)
        return discovery

    def now(self) -> float:
        return self.clock.time()

    async def settled(self, condition: Callable[[], bool]) -> None:
        await self.clock.advance(0.0)
        assert condition()

    @precondition(lambda self: self.truth)
    @rule(who=anybody, process=processes)
    def drain_another_process(self, who: int, process: int) -> None:
        instance = self.chosen(who)
        owner = self.owner(instance)
        if owner is not self.living[process]:
            drained = self.run(self.living[process].drain(instance))
            self.run(self.clock.advance(LEASE))  # the owner hears of it with its next renewal
            assert drained in [registration.instance for registration in owner.registrations]
            self.changed(drained)

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.3, 1.0, 4.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.clock.advance(seconds))

    @precondition(lambda self: len(self.dying) < PROCESSES * len(PLACES))
    @rule(process=processes)
    def crash(self, process: int) -> None:
        discovery = self.living[process]
        self.run(crash(discovery))
        for id in [id for id in self.truth if id.instance_id == discovery.instance_id]:
            del self.truth[id]
            self.dying[id] = self.now() + LEASE + GRACE
            self.crashed.add(id)
        self.living[process] = self.run(self.join(next(self.numbers)))
        self.register(process)

    async def end(self) -> None:
        for discovery in self.joined:
            await discovery.close()


class OnServer(Processes):
    """On a real server, whose time nobody moves: without crashes, but the connection breaks."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(self.url)
        self.reconnects = 0

    async def join(self, number: int) -> natsdisc.Discovery:
        return await self.registry.join(
            instance_id=number, lease_ttl=None, reconnect_time_wait=0.01, max_reconnect_attempts=-1
        )

    def now(self) -> float:
        return self.runner.get_loop().time()

    @precondition(lambda self: self.truth)
    @rule(who=anybody, leaves=st.booleans())
    def the_connection_breaks(self, who: int, leaves: bool) -> None:
        """And while the client is away somebody goes, or changes."""
        self.run(self.broken())
        if leaves:
            self.unregister(who)
        else:
            self.drain(who)
        self.run(self.mended())

    async def broken(self) -> None:
        connection: Any = self.client._store._nc  # type: ignore[attr-defined]
        self.reconnects = connection.stats["reconnects"]
        connection._transport._io_writer.transport.abort()

    async def mended(self) -> None:
        connection: Any = self.client._store._nc  # type: ignore[attr-defined]
        await eventually(lambda: connection.stats["reconnects"] > self.reconnects, PATIENCE)

    async def end(self) -> None:
        await self.registry.close()


HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def run(machine: type[Processes], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=HEALTH
        ),
    )


def test_in_memory() -> None:
    run(InMemory, 20, 30)


def test_on_a_server(nats_url: str) -> None:
    class OnThisServer(OnServer):
        url = nats_url

    run(OnThisServer, 10, 20)
