"""Only for mypy: what users write, without a cast and without an isinstance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, assert_type

from natsdisc import (
    Added,
    Discovery,
    EndpointInstance,
    EndpointSpec,
    Event,
    Instance,
    InstanceId,
    ModelInstance,
    Query,
    Removed,
    Selection,
    Service,
    Transport,
    View,
    Watch,
    balance,
    endpoints,
    models,
    sync,
)


async def picking(discovery: Discovery) -> str:
    async with discovery.view(endpoints("shop"), balance=balance.LeastOutstanding()) as view:
        assert_type(view, View[EndpointInstance])
        assert_type(view.pick(), EndpointInstance)
        assert_type(view.pick("key").transport, Transport)
        assert_type(view.instances, tuple[EndpointInstance, ...])
        assert_type([one.transport for one in view], list[Transport])
        found = view.get(view.pick().id)
        assert_type(found, EndpointInstance | None)
        async with view.using(timeout=None) as instance:
            assert_type(instance, EndpointInstance)
        kinds = view.select(lambda instance: instance.transport.kind)
        assert_type(kinds, Selection[str])
        seen = view.version
        seen = await view.changed(seen)
        return str(view.pick().transport.address)


async def watching(discovery: Discovery) -> None:
    async with discovery.list_and_watch(endpoints("shop"), where=lambda one: one.metadata) as watch:
        assert_type(watch, Watch[EndpointInstance])
        async for event in watch:
            assert_type(event, Added[EndpointInstance] | Removed[EndpointInstance])
            match event:
                case Added(instance):
                    assert_type(instance, EndpointInstance)
                case Removed(_, _, last):
                    assert_type(last, EndpointInstance | None)
    assert_type(discovery.list_and_watch(models()), Watch[ModelInstance])
    assert_type(await discovery.list(models(), where=lambda card: card.card), list[ModelInstance])
    assert_type(await discovery.services(), list[Service])


def any_event(event: Event) -> Added:
    """Without a kind of instance, an event is of any."""
    assert isinstance(event, Added)
    assert_type(event.instance, Instance)
    return event


async def calling(discovery: Discovery) -> None:
    view = discovery.view(endpoints(), where=lambda one: one.transport.kind == "http", panic_threshold=0.2)

    async def ask(instance: EndpointInstance) -> int:
        return instance.instance_id

    assert_type(await view.call(ask), int)
    assert_type(await view.call(ask, key="user", attempts=3, timeout=1, retry_on=(OSError, KeyError)), int)

    def hear(event: Added[EndpointInstance] | Removed[EndpointInstance]) -> None: ...

    def hear_any(event: Event) -> None: ...

    view.subscribe(hear, replay=True)
    view.subscribe(hear_any)


async def cards(discovery: Discovery) -> Any:
    async with discovery.view(models("shop")) as view:
        assert_type(view.pick(), ModelInstance)
        return view.select(lambda card: card.card["load"])


async def of_any_kind(discovery: Discovery, query: Query) -> View[Instance]:
    view = discovery.view(query)
    assert_type(view, View[Instance])
    narrower: View[Instance] = discovery.view(endpoints())  # whoever takes any view takes this one
    return narrower


def on_any_sequence(some: list[EndpointInstance], others: tuple[ModelInstance, ...]) -> None:
    assert_type(balance.RoundRobin().pick(some), EndpointInstance)
    assert_type(balance.PreferZone("a", balance.Weighted()).pick(some), EndpointInstance)
    assert_type(balance.Rendezvous().pick(others, "key"), ModelInstance)


_Instance = TypeVar("_Instance", bound=Instance)


class Last:
    """A picker of one's own."""

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        return instances[-1]

    def started(self, id: InstanceId) -> None: ...

    def finished(self, id: InstanceId) -> None: ...


def own_picker(discovery: Discovery) -> View[EndpointInstance]:
    return discovery.view(endpoints(), balance=Last())


def without_asyncio(discovery: sync.Discovery) -> None:
    registration = discovery.announce(
        EndpointSpec("shop", "cart", "pay", transport=Transport.http("http://a"))
    )
    assert_type(registration, sync.Registration)
    assert_type(registration.active(timeout=1.0), Instance)
    assert_type(discovery.list(endpoints(), where=lambda one: one.transport.kind), list[EndpointInstance])
    with discovery.registered(
        EndpointSpec("shop", "cart", "pay", transport=Transport.http("http://a")), lease_ttl=None
    ) as instance:
        assert_type(instance, EndpointInstance)
    with discovery.view(models(), where=lambda card: card.card, panic_threshold=0) as view:
        assert_type(view, sync.View[ModelInstance])
        assert_type(view.call(lambda one: one.endpoint, attempts=3, timeout=1.0), str)
