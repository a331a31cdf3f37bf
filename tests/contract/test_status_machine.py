"""Status, health, drain, updates, takeovers in any order: nothing that was set is lost. Both stores."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, State, Status, Transport, endpoints
from tests.rig import eventually

from .conftest import Registry

_T = TypeVar("_T")
PATIENCE_S = 30.0
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


class Service(RuleBasedStateMachine):
    """A service that restarts under its id, and an operator; `truth` is what has to be registered."""

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.registry = Registry(url)
        self.operator = self.run(self.registry.join())
        self.view = self.run(self.watched())
        self.service = self.run(self.started())
        self.truth: EndpointInstance = self.run(self.service.register(SPEC))

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self.runner.run(bounded())

    async def watched(self) -> natsdisc.View[EndpointInstance]:
        return await self.operator.view(endpoints()).__aenter__()

    async def started(self) -> natsdisc.Discovery:
        return await self.registry.join(instance_id=1, lease_ttl=60.0)

    async def known(self) -> None:
        """Wait until the service has heard of what the operator did."""
        self.service._registrar._upkeep.renew_all()
        await eventually(lambda: self.service.registrations[0].instance == self.truth)

    def set(self, **changes: Any) -> None:
        self.truth = dataclasses.replace(self.truth, **changes)

    @rule(status=st.sampled_from(Status), by_operator=st.booleans())
    def set_status(self, status: Status, by_operator: bool) -> None:
        client = self.operator if by_operator else self.service
        self.set(status=status)
        assert self.run(client.set_status(self.truth, status)) == self.truth

    @rule(by_operator=st.booleans())
    def drain(self, by_operator: bool) -> None:
        self.set(status=Status.DRAINING)
        client = self.operator if by_operator else self.service
        assert self.run(client.drain(self.truth)) == self.truth

    @rule(number=st.integers(0, 3), by_operator=st.booleans())
    def update(self, number: int, by_operator: bool) -> None:
        if by_operator:
            client, seen = self.operator, self.truth
        else:
            self.run(self.known())
            client, seen = self.service, self.truth
        self.set(metadata={"number": number})
        assert self.run(client.update(seen, metadata={"number": number})) == self.truth

    @rule(healthy=st.sampled_from([False, False, True]), heard=st.sampled_from([False, False, True]))
    def check(self, healthy: bool, heard: bool) -> None:
        """A health check has an answer; it asks for one of two statuses, and changes no others."""
        if heard or self.truth.status in (Status.SERVING, Status.UNHEALTHY):
            self.run(self.known())
        [held] = self.service.registrations
        self.run(self.service._registrar._set_healthy(held, healthy))
        if self.truth.status in (Status.SERVING, Status.UNHEALTHY):
            self.set(status=Status.SERVING if healthy else Status.UNHEALTHY)

    @rule(keep=st.booleans(), metadata=st.booleans())
    def restart(self, keep: bool, metadata: bool) -> None:
        """The next process has the same id; after an orderly leave its spec may be another one."""

        async def restarted() -> EndpointInstance:
            if keep:
                await self.service.close(keep=True)
                if metadata:
                    self.set(metadata={"restarted": True})
            else:
                self.service._registrar.abandon()
            self.service = await self.started()
            return await self.service.register(dataclasses.replace(SPEC, metadata=self.truth.metadata))

        now = self.run(restarted())
        if self.truth.status is Status.UNHEALTHY:
            self.set(status=Status.SERVING)  # it was the check of another process
        assert now == self.truth

    @rule()
    def announce_again(self) -> None:
        async def announced() -> None:
            await self.known()
            [held] = self.service.registrations
            spec = dataclasses.replace(SPEC, metadata=self.truth.metadata)
            assert self.service.announce(spec) is held

        self.run(announced())

    @rule()
    def removed_by_another(self) -> None:
        """As by an outage that lasts longer than the lease."""

        async def gone_and_back() -> None:
            await self.known()
            await self.operator.unregister(self.truth)
            count = self.service.stats().reregistrations
            self.service._registrar._upkeep.renew_all()
            await eventually(lambda: self.service.stats().reregistrations > count)

        self.run(gone_and_back())

    @invariant()
    def all_agree(self) -> None:
        assert self.run(self.operator.list(endpoints())) == [self.truth]
        assert [one.state for one in self.service.registrations] == [State.ACTIVE]
        self.run(self.converged())

    async def converged(self) -> None:
        await eventually(lambda: self.view.instances == (self.truth,))

    def teardown(self) -> None:
        self.run(self.registry.close())
        self.runner.close()


@pytest.mark.parametrize(("store", "examples"), [("memory", 40), ("jetstream", 6)])
def test_any_order(store: str, examples: int, nats_url: str) -> None:
    class OnStore(Service):
        def __init__(self) -> None:
            super().__init__(nats_url if store == "jetstream" else None)

    suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        OnStore,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=suppressed
        ),
    )
