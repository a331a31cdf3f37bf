"""Only for mypy: what users write, without a cast and without an isinstance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, assert_type

from natsdisc import (
    Discovery,
    EndpointInstance,
    Instance,
    InstanceId,
    ModelInstance,
    Query,
    Selection,
    Transport,
    View,
    balance,
    endpoints,
    models,
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
