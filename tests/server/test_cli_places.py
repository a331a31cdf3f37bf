"""`natsdisc unregister`, `drain` and `tree`: places."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import natsdisc
from natsdisc import Discovery, EndpointSpec, ModelSpec, Transport, endpoints
from natsdisc.cli.path import path_of
from tests.server.shell import PATIENCE, Outcome, Shell, fails


def spec(endpoint: str = "checkout", namespace: str = "shop", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


async def test_unregister_by_path(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec(), lease_ttl=None)
    slashes = await discovery.register(EndpointSpec("a/b", "c/d", "e", transport=Transport.tcp("h:1")))
    keep = await discovery.register(spec("keep"))
    fails(await shell.run("unregister", "shop/cart/none/1f", *registry), 1, "shop/cart/none/1f")
    path = path_of(slashes.id)
    assert path == "a%2Fb/c%2Fd/e/1f"
    outcome = await shell.run("unregister", "shop/cart/checkout/1f", path, *registry)
    assert outcome == Outcome(0, f"unregistered  shop/cart/checkout/1f\nunregistered  {path}\n", "")
    assert keep in await discovery.list(endpoints())


async def test_unregister_takes_all_or_nothing(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(), lease_ttl=None)
    fails(await shell.run("unregister", str(mine.id), "shop/cart/none/1", *registry), 1, "none")
    assert await discovery.list(endpoints()) == [mine]


async def test_names_with_slashes(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    for namespace, component in (("a/b", "c"), ("a", "b/c")):
        await discovery.register(EndpointSpec(namespace, component, "e", transport=Transport.tcp("h:1")))
    fails(await shell.run("unregister", "a/b/c/e/1f", *registry), 2, "5 parts", "%2F")
    assert len(await discovery.list(endpoints())) == 2
    assert (await shell.run("drain", "a", "b%2Fc", "e", "--id", "1f", *registry)).code == 0
    [marked] = await discovery.list(endpoints("a"))
    assert marked.status is natsdisc.Status.DRAINING
    assert (await shell.run("unregister", "a%2Fb/c/e/1f", *registry)).code == 0


async def test_unregister_a_model(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    card = ModelSpec("dyn", "backend", "generate", card={}, model_suffix="lora/1")
    await discovery.register(card, lease_ttl=None)
    path = "dyn/backend/generate/1f/lora%2F1"
    fails(await shell.run("unregister", path, *registry), 2, "5 parts")
    exact = ["unregister", "dyn", "backend", "generate", "--models", "--id", "1f"]
    fails(await shell.run(*exact, *registry), 1, "no model")
    assert (await shell.run(*exact, "--suffix", "lora/1", *registry)).code == 0
    await discovery.register(card, lease_ttl=None)
    assert (await shell.run("unregister", "--models", path, *registry)).code == 0
    assert await discovery.list(natsdisc.models()) == []


async def test_drain_marks_what_another_process_holds(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(weight=3))
    async with discovery.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
        assert await anext(events) == natsdisc.Added(mine)
        outcome = await shell.run("drain", str(mine.id), *registry)
        assert outcome == Outcome(0, "draining  shop/cart/checkout/1f\n", "")
        marked = await anext(events)
    assert isinstance(marked, natsdisc.Added)
    assert isinstance(marked.instance, natsdisc.EndpointInstance)
    assert marked.instance == dataclasses.replace(mine, status=natsdisc.Status.DRAINING)


async def test_what_is_taken_out_or_marked_as_json(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(), lease_ttl=None)
    [marked] = json.loads((await shell.run("drain", str(mine.id), "--json", *registry)).out)
    listed = {"id": "shop/cart/checkout/1f", **json.loads(natsdisc.wire.dumps(mine))}
    assert marked == {**listed, "status": "draining"}
    taken = await shell.run("unregister", str(mine.id), "--json", *registry)
    assert json.loads(taken.out) == [marked]
    assert await discovery.list(endpoints()) == []


async def test_tree(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec())
    await discovery.drain(await discovery.register(spec("pay")))
    await discovery.register(EndpointSpec("other", "c", "e", transport=Transport.tcp("h:1")))
    card = {"display_name": "Qwen"}
    await discovery.register(ModelSpec("shop", "cart", "checkout", card=card, model_suffix="lora"))
    assert (await shell.run("tree", *registry)).out.splitlines() == [
        "other",
        "  c",
        "    e",
        "      1f  tcp h:1",
        "shop",
        "  cart",
        "    checkout",
        "      1f  nats_tcp shop.cart",
        "      1f/lora  model Qwen",
        "    pay",
        "      1f  nats_tcp shop.cart  draining",
    ]
    assert json.loads((await shell.run("tree", "shop", "--json", *registry)).out) == {
        "shop": {
            "cart": {
                "checkout": ["shop/cart/checkout/1f", "shop/cart/checkout/1f/lora"],
                "pay": ["shop/cart/pay/1f"],
            }
        }
    }
    empty = await shell.run("tree", "nowhere", *registry)
    assert (empty.code, empty.out) == (0, "")
    assert "no endpoints below nowhere" in empty.err


async def test_enable_and_disable_all_of_an_endpoint(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(), lease_ttl=None)
    outcome = await shell.run("disable", "shop", "cart", "checkout", *registry)
    assert outcome == Outcome(0, "disabled  shop/cart/checkout/1f\n", "")
    listed = await shell.run("ls", "--leases", *registry)
    assert [line.split()[:3] for line in listed.out.splitlines()] == [
        ["INSTANCE", "STATUS", "LEASE"],
        ["shop/cart/checkout/1f", "disabled", "none"],
    ]
    [shown] = json.loads((await shell.run("enable", "shop/cart/checkout/1f", "--json", *registry)).out)
    assert "status" not in shown
    assert await discovery.list(endpoints()) == [mine]
    leased = await discovery.register(spec("leased"))
    [one] = json.loads((await shell.run("ls", path_of(leased.id), "--leases", "--json", *registry)).out)
    assert 0 < one["lease_left"] <= 10
