"""`natsdisc status`, `prune` and `top`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats

import natsdisc
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.shell import PATIENCE, Shell, on_terminal


def spec(endpoint: str = "checkout", namespace: str = "shop", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


async def test_status_json(shell: Shell, registry: list[str], discovery: Discovery, prefix: str) -> None:
    await discovery.register(spec())
    await discovery.register(spec("pay"), lease_ttl=None)
    gone = await discovery.register(spec("gone"))
    await discovery.unregister(gone)
    shown = json.loads((await shell.run("status", "--json", *registry)).out)
    assert shown["natsdisc"] == natsdisc.__version__
    assert shown["server"].keys() == {"name", "version", "url", "cluster", "jetstream"}
    assert shown["server"]["jetstream"] is True
    assert shown["buckets"]["v1_mdc"] is None
    bucket = shown["buckets"]["v1_instances"]
    expected = {"entries": 2, "leases": 1, "without_lease": 1, "tombstones": 1, "degraded": []}
    assert {name: bucket[name] for name in expected} == expected
    assert bucket["bucket"] == f"{prefix}_v1_instances"
    assert (bucket["replicas"], bucket["storage"], bucket["fault"]) == (1, "memory", None)
    # Two entries, a lease, the mark of a removal; and that of a sweep, if one came by.
    assert bucket["written"] >= bucket["messages"]
    assert bucket["messages"] in (4, 5)


async def test_status_for_people(
    shell: Shell, registry: list[str], discovery: Discovery, prefix: str
) -> None:
    await discovery.register(spec("pay"), lease_ttl=None)
    outcome = await shell.run("status", *registry)
    assert (outcome.code, outcome.err) == (0, "")
    assert "  entries     1, 1 of them without a lease\n" in outcome.out
    assert f"natsdisc {natsdisc.__version__}\n" in outcome.out
    assert f"{prefix}_v1_mdc  is not there yet" in outcome.out
    assert "\x1b" not in outcome.out


async def test_prune_shows_first_and_removes_then(
    shell: Shell, registry: list[str], discovery: Discovery, nats_url: str, prefix: str
) -> None:
    leased = await discovery.register(spec())
    bare = await discovery.register(spec("pay"), lease_ttl=None)
    other = await discovery.register(spec("pay", namespace="other"), lease_ttl=None)
    client = await nats.connect(nats_url)
    await client.jetstream().publish(f"$KV.{prefix}_v1_instances.rubbish", b"x")
    await client.close()

    dry = await shell.run("prune", "shop/*", *registry)
    assert dry.code == 0
    assert [line.split()[:5] for line in dry.out.splitlines()] == [
        ["would", "be", "removed", "endpoint", "shop/cart/pay/1f"]
    ]
    assert "--yes" in dry.err
    assert await discovery.list(endpoints()) == [other, leased, bare]

    young = await shell.run("prune", "--older-than", "1h", "--yes", "--json", *registry)
    assert json.loads(young.out) == []

    wet = await shell.run("prune", "shop/*", "--yes", "--json", *registry)
    [removed] = json.loads(wet.out)
    assert (removed["path"], removed["kind"], removed["removed"]) == ("shop/cart/pay/1f", "endpoint", True)
    assert await discovery.list(endpoints()) == [other, leased]

    everything = json.loads((await shell.run("prune", "*", "--yes", "--json", *registry)).out)
    assert [one["path"] for one in everything] == ["other/cart/pay/1f", "rubbish"]
    assert await discovery.list(endpoints()) == [leased]


async def test_top_prints_one_picture(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec())
    await discovery.drain(await discovery.register(spec("pay")))
    await discovery.register(spec(namespace="other"))
    for arguments in (["top", "--once"], ["top"]):
        lines = (await shell.run(*arguments, *registry)).out.splitlines()
        assert [line.split() for line in lines] == [
            ["endpoints", "3", "instances"],
            ["COMPONENT", "INSTANCES", "AWAY"],
            ["shop/cart", "2", "1"],
            ["other/cart", "1", "0"],
        ]
    shown = json.loads((await shell.run("top", "shop", "--json", *registry)).out)
    cart = {"place": "shop/cart", "namespace": "shop", "component": "cart", "instances": 2}
    cart |= {"draining": 1, "unhealthy": 0, "disabled": 0}
    assert shown == {"query": "endpoints/shop", "instances": 2, "components": [cart]}


async def test_top_shows_changes_and_a_lost_connection(shell: Shell) -> None:
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, instance_id=1) as discovery,
        on_terminal(shell, "top", "-s", server.url, columns=120) as screen,
    ):
        await eventually(lambda: screen.shows("0 instances"), PATIENCE)
        mine = await discovery.register(spec())
        await eventually(lambda: screen.shows("shop/cart/checkout/1"), PATIENCE)
        await discovery.unregister(mine)
        await eventually(lambda: screen.shows("unregistered"), PATIENCE)
        await eventually(
            lambda: screen.shows("2 came or went in the last minute, 0 expired, 2 events"), PATIENCE
        )
        await asyncio.to_thread(server.kill)
        await eventually(lambda: screen.shows("NOT CONNECTED"), PATIENCE)
        await asyncio.to_thread(server.restart)
        await discovery.register(spec("back"))
        await eventually(lambda: screen.shows("shop/cart/back/1"), PATIENCE)
        assert screen.shows("q or Ctrl-C quits")
        screen.type(b"q")
        await screen.end()
    assert screen.code == 0
    assert "\x1b[?1049l" in screen.raw
    assert not screen.shows("Traceback")
