"""Picks go by status, and errors say what is there. On both stores."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, NoInstanceError, Status, Transport, View, endpoints, wire
from natsdisc.balance import Balance, LeastOutstanding, PreferZone, Random, RoundRobin, Weighted
from natsdisc.keys import key_of
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0
BALANCES: list[Balance] = [RoundRobin(), Random(), LeastOutstanding(), Weighted(), PreferZone("a")]


def spec(name: str) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


async def become(
    discovery: natsdisc.Discovery, view: View[EndpointInstance], instance: EndpointInstance, status: Status
) -> EndpointInstance:
    """Write the status as any process may, and wait until the view shows it."""
    bucket: Any = discovery._store.bucket("v1_instances")
    changed = dataclasses.replace(instance, status=status)
    found = await bucket.get(key_of(instance.id))
    await bucket.replace(
        natsdisc.store.Write(key_of(instance.id), wire.dumps(changed), found.ttl, found.owner or ""),
        revision=found.revision,
    )
    await eventually(lambda: view.get(instance.id) == changed, PATIENCE)
    return changed


def picked(view: View[EndpointInstance]) -> set[EndpointInstance]:
    return {view.pick() for _ in range(40)} | {view.pick(f"user-{number}") for number in range(20)}


@pytest.mark.parametrize("balance", BALANCES, ids=lambda balance: type(balance).__name__)
async def test_serving_then_draining_then_unhealthy_and_never_disabled(balance: Balance) -> None:
    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery:
        await check(discovery, balance)


async def test_on_every_store(registry: Registry) -> None:
    await check(await registry.join(), RoundRobin())


async def check(discovery: natsdisc.Discovery, balance: Balance) -> None:
    serving, draining, unhealthy, disabled = [await discovery.register(spec(name)) for name in "abcd"]
    async with discovery.view(endpoints(), balance=balance) as view:
        draining = await become(discovery, view, draining, Status.DRAINING)
        unhealthy = await become(discovery, view, unhealthy, Status.UNHEALTHY)
        disabled = await become(discovery, view, disabled, Status.DISABLED)
        assert view.instances == (serving, draining, unhealthy, disabled)
        assert picked(view) == {serving}

        # Set aside after a failure: the next status is better than what failed.
        view.report_failure(serving.id)
        assert picked(view) == {draining}
        view.report_failure(draining.id)
        assert picked(view) == {unhealthy}
        view.report_failure(unhealthy.id)
        assert picked(view) == {serving}
        view.report_failure(disabled.id)
        assert picked(view) == {serving}

        await discovery.unregister(serving)
        await eventually(lambda: len(view) == 3, PATIENCE)
        assert picked(view) == {draining}
        await discovery.unregister(draining)
        await eventually(lambda: len(view) == 2, PATIENCE)
        assert picked(view) == {unhealthy}
        await discovery.unregister(unhealthy)
        await eventually(lambda: len(view) == 1, PATIENCE)
        for key in (None, "key"):
            with pytest.raises(NoInstanceError, match=r"endpoints: 1 instance, 1 disabled, .*in sync"):
                view.pick(key)
        back = await become(discovery, view, disabled, Status.SERVING)
        assert picked(view) == {back}


async def test_errors_name_the_query_and_what_is_there(registry: Registry) -> None:
    discovery = await registry.join()
    ones = [await discovery.register(spec(name)) for name in "abcdef"]
    async with discovery.view(endpoints("ns", "comp")) as view:
        for one in ones[:3]:
            await become(discovery, view, one, Status.DRAINING)
        await become(discovery, view, ones[3], Status.DISABLED)
        for one in ones[4:]:
            view.report_failure(one.id)
        described = (
            "endpoints/ns/comp: 6 instances, 2 serving, 3 draining, 1 disabled, "
            "2 set aside after failures, in sync"
        )
        with pytest.raises(TimeoutError, match=described):
            await view.wait_for(7, timeout=0.01)
        only = await discovery.list(endpoints("ns", "comp", "d"))
    async with discovery.view(endpoints("ns", "comp", "d")) as view:
        assert view.instances == tuple(only)
        with pytest.raises(NoInstanceError, match="endpoints/ns/comp/d: 1 instance, 1 disabled, in sync"):
            async with view.using():
                pass
    async with discovery.view(endpoints("empty")) as view:
        with pytest.raises(NoInstanceError, match="endpoints/empty: 0 instances, in sync"):
            view.pick()
