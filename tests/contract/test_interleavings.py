"""Several clients register, unregister, update and watch in any order: all end with the same picture."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

import natsdisc
from natsdisc import Added, EndpointSpec, ModelSpec, Removed, Transport, endpoints, models

from .conftest import Registry

_T = TypeVar("_T")
PATIENCE = 20.0
CLIENTS = 3
PLACES = [("ns1", "a", "x"), ("ns1", "a", "y"), ("ns1", "b", "x"), ("ns10", "a", "x")]
QUERIES = [
    endpoints(),
    endpoints("ns1"),
    endpoints("ns1", "a"),
    endpoints("ns1", "a", "x"),
    models(),
    models("ns1"),
]

clients = st.integers(0, CLIENTS - 1)
places = st.sampled_from(PLACES)
values = st.sampled_from(["one", "two"])
suffixes = st.sampled_from([None, "lora"])


class Follower:
    """A watch, and what its events add up to; every event has to be a legal next one."""

    def __init__(self, watch: natsdisc.Watch, query: natsdisc.Query) -> None:
        self.watch = watch
        self.query = query
        self.seen: dict[natsdisc.InstanceId, natsdisc.Instance] = {}

    def take(self, event: natsdisc.Event) -> None:
        match event:
            case Added(instance):
                assert self.seen.get(instance.id) != instance, f"{event} is no news"
                assert self.query.matches(instance.id)
                self.seen[instance.id] = instance
            case Removed(id, _, last):
                assert last == self.seen.pop(id), f"{event} without its Added"


class Clients(RuleBasedStateMachine):
    """The machine; its model is a dict of what has to be registered."""

    watches: Bundle[Follower] = Bundle("watches")

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=True)
        self.registry = Registry(url)
        self.discoveries = [self.run(self.join(number)) for number in range(CLIENTS)]
        self.truth: dict[natsdisc.InstanceId, natsdisc.Instance] = {}

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(PATIENCE):
                return await work

        return self.runner.run(bounded())

    async def join(self, number: int) -> natsdisc.Discovery:
        # Two clients share an id, as two processes that were told the same one would.
        return await self.registry.join(instance_id=number // 2, lease_ttl=None)

    @rule(client=clients, place=places, value=values)
    def register_endpoint(self, client: int, place: tuple[str, str, str], value: str) -> None:
        self._register(client, EndpointSpec(*place, transport=Transport.nats(value)))

    @rule(client=clients, place=places, value=values, suffix=suffixes)
    def register_model(
        self, client: int, place: tuple[str, str, str], value: str, suffix: str | None
    ) -> None:
        self._register(client, ModelSpec(*place, card=value, model_suffix=suffix))

    def _register(self, client: int, spec: natsdisc.Spec) -> None:
        discovery = self.discoveries[client]
        wanted = spec.with_instance_id(discovery.instance_id)
        there = self.truth.get(wanted.id)
        if there is not None and there != wanted:
            with pytest.raises(natsdisc.AlreadyRegisteredError) as caught:
                self.run(discovery.register(spec))
            assert caught.value.existing == there
        else:
            assert self.run(discovery.register(spec)) == wanted
            self.truth[wanted.id] = wanted

    @rule(client=clients, place=places)
    def unregister(self, client: int, place: tuple[str, str, str]) -> None:
        for id in [id for id in self.truth if (id.namespace, id.component, id.endpoint) == place]:
            discovery = self.discoveries[client]
            self.run(discovery.unregister(id))
            if discovery._registrar.find(id) is None:
                now = {i.id: i for i in self.run(discovery.list(natsdisc.Query(_kind(id))))}
                if id not in now:
                    del self.truth[id]

    @rule(client=clients, place=places, value=values)
    def update(self, client: int, place: tuple[str, str, str], value: str) -> None:
        for id, instance in list(self.truth.items()):
            if (id.namespace, id.component, id.endpoint) != place:
                continue
            change: dict[str, Any] = {"transport": Transport.http(f"http://{value}:80")}
            if isinstance(instance, natsdisc.ModelInstance):
                change = {"card": value}
            try:
                self.truth[id] = self.run(self.discoveries[client].update(instance, **change))
            except natsdisc.ConflictError:
                # Only who registered it and was overtaken by another client has a revision that is old.
                assert self.discoveries[client]._registrar.find(id) is not None

    @rule(target=watches, client=clients, query=st.sampled_from(QUERIES))
    def watch(self, client: int, query: natsdisc.Query) -> Follower:
        watch = self.discoveries[client].list_and_watch(query)
        self.run(watch.__aenter__())
        return Follower(watch, query)

    @rule(follower=watches)
    def watches_agree(self, follower: Follower) -> None:
        self.run(self._follow(follower))

    @rule(follower=consumes(watches))
    def close_watch(self, follower: Follower) -> None:
        self.run(self._follow(follower))
        self.run(follower.watch.aclose())

    async def _follow(self, follower: Follower) -> None:
        expected = self.expected(follower.query)
        await follower.watch.synced()
        while follower.seen != expected or follower.watch._queue._pending:
            follower.take(await anext(follower.watch))

    def expected(self, query: natsdisc.Query) -> dict[natsdisc.InstanceId, natsdisc.Instance]:
        return {id: instance for id, instance in self.truth.items() if query.matches(id)}

    @invariant()
    def lists_agree(self) -> None:
        for query in QUERIES[::4]:
            listed = self.run(self.discoveries[0].list(query))
            assert {instance.id: instance for instance in listed} == self.expected(query)

    def teardown(self) -> None:
        self.run(self.registry.close())
        self.runner.close()


def _kind(id: natsdisc.InstanceId) -> natsdisc.Kind:
    return natsdisc.Kind.ENDPOINT if isinstance(id, natsdisc.EndpointInstanceId) else natsdisc.Kind.MODEL


@pytest.mark.parametrize(("store", "examples"), [("memory", 60), ("jetstream", 15)])
def test_any_interleaving(store: str, examples: int, nats_url: str) -> None:
    class OnStore(Clients):
        def __init__(self) -> None:
            super().__init__(nats_url if store == "jetstream" else None)

    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        OnStore,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=health
        ),
    )
