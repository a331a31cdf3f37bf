"""A registry in another JetStream domain, and one that is imported from another account."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, RemovalReason, Removed, StoreUnavailableError, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import eventually

from .shell import Shell

PATIENCE = 20.0
HUB = """
server_name: hub
jetstream {{ domain: hub, store_dir: "{store}" }}
leafnodes {{ listen: "{leaf}" }}
"""
LEAF = """
server_name: leaf
jetstream {{ domain: leaf, store_dir: "{store}" }}
leafnodes {{ remotes: [ {{ url: "nats-leaf://{leaf}" }} ] }}
"""


def spec(name: str) -> EndpointSpec:
    return EndpointSpec("shop", "cart", name, transport=Transport.nats(name))


async def is_answered(url: str, subject: str) -> bool:
    client = await nats.connect(url)
    try:
        with contextlib.suppress(nats.errors.Error):
            return "error" not in json.loads((await client.request(subject, timeout=1)).data)
        return False
    finally:
        await client.close()


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NatsServer, NatsServer]]:
    """A hub, and a leaf node with JetStream of its own."""
    folder: Path = tmp_path_factory.mktemp("domains")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    with (
        NatsServer(config=HUB.format(leaf=address, store=folder / "hub")) as hub,
        NatsServer(config=LEAF.format(leaf=address, store=folder / "leaf")) as leaf,
    ):
        asyncio.run(eventually(lambda: is_answered(leaf.url, "$JS.hub.API.INFO"), PATIENCE))
        yield hub, leaf


async def test_a_leaf_client_reads_and_writes_the_hubs_registry(
    linked: tuple[NatsServer, NatsServer], shell: Shell
) -> None:
    """Three registries' worth of clients with the same bucket names: the hub's two, and the leaf's one."""
    hub, leaf = linked
    async with (
        natsdisc.connect(hub.url, lease_ttl=2, expiry_grace=0) as at_hub,
        natsdisc.connect(leaf.url, domain="hub", lease_ttl=2, expiry_grace=0) as far,
        natsdisc.connect(leaf.url, lease_ttl=2) as near,
    ):
        theirs, mine, other = [
            await each.register(spec(name)) for each, name in ((at_hub, "hub"), (far, "far"), (near, "near"))
        ]
        everything = sorted([theirs, mine], key=lambda one: one.id)
        assert await at_hub.list(endpoints()) == await far.list(endpoints()) == everything
        assert await near.list(endpoints()) == [other]
        async with far.list_and_watch(endpoints()) as events:
            await events.synced()
            assert {await anext(events), await anext(events)} == {Added(theirs), Added(mine)}
            # Leases cross the leaf node, and both streams answer them: no answer of the wrong one counts.
            beats = [each.stats().renewals.count for each in (at_hub, far, near)]
            for each, before in zip((at_hub, far, near), beats, strict=True):
                await eventually(lambda: each.stats().renewals.count >= before + 4, PATIENCE)  # noqa: B023
            assert [each.stats().fence_failures for each in (at_hub, far, near)] == [0, 0, 0]
            dying = await natsdisc.connect(leaf.url, domain="hub", lease_ttl=1)
            gone = await dying.register(spec("dying"))
            assert await anext(events) == Added(gone)
            await crash(dying)
            assert await anext(events) == Removed(gone.id, RemovalReason.EXPIRED)
            changed = await at_hub.update(theirs, transport=Transport.nats("new"))
            assert await anext(events) == Added(changed)
            await far.unregister(mine)
            assert await anext(events) == Removed(mine.id, RemovalReason.UNREGISTERED)

        assert [one["endpoint"] for one in await listed(shell, leaf.url, "--domain", "hub")] == ["hub"]
        write_context(shell, "hub", url=leaf.url, jetstream_domain="hub")
        shell.environment["NATS_CONTEXT"] = "hub"
        assert [one["endpoint"] for one in json.loads((await shell.run("ls", "--json")).out)] == ["hub"]
        # An option hides what the context says of the same.
        here = await shell.run("ls", "--json", "--domain", "leaf")
        assert [one["endpoint"] for one in json.loads(here.out)] == ["near"]


async def test_a_domain_that_does_not_exist(linked: tuple[NatsServer, NatsServer]) -> None:
    _, leaf = linked
    async with natsdisc.connect(leaf.url, domain="nowhere") as discovery:
        with pytest.raises(StoreUnavailableError, match=r"\$JS\.nowhere\.API.*domain"):
            await discovery.register(spec("a"))


REQUESTS = (
    *("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.GET", "DIRECT.GET"),
    *("CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE"),
)
ACCOUNTS = """
accounts {
  REGISTRY {
    jetstream: enabled
    users: [ { user: owner, password: x } ]
    exports: [
      EXPORTS
      { service: "$KV.>" }
      { service: "$NATSDISC.LEASE.>" }
      { service: "$JS.FC.>" }
      { stream: "_INBOX_app.>" }
    ]
  }
  APP {
    jetstream: enabled
    users: [ { user: app, password: x } ]
    imports: [
      IMPORTS
      { service: { account: REGISTRY, subject: "$KV.>" }, to: "hub.API.$KV.>" }
      { service: { account: REGISTRY, subject: "$NATSDISC.LEASE.>" }, to: "hub.API.$NATSDISC.LEASE.>" }
      { service: { account: REGISTRY, subject: "$JS.FC.>" } }
      { stream: { account: REGISTRY, subject: "_INBOX_app.>" } }
    ]
  }
}
""".replace("EXPORTS", "\n".join(f'{{ service: "$JS.API.{one}.>" }}' for one in REQUESTS)).replace(
    "IMPORTS",
    "\n".join(
        f'{{ service: {{ account: REGISTRY, subject: "$JS.API.{one}.>" }}, to: "hub.API.{one}.>" }}'
        for one in REQUESTS
    ),
)


async def test_a_registry_that_is_imported_from_another_account(shell: Shell) -> None:
    """Beside one of its own under the same names: the prefix alone says which of them is meant."""
    app: dict[str, Any] = {"user": "app", "password": "x", "inbox_prefix": "_INBOX_app"}
    async with (
        NatsServer(config=ACCOUNTS) as server,
        natsdisc.connect(server.url, user="owner", password="x", lease_ttl=2) as owner,
        natsdisc.connect(server.url, api_prefix="hub.API", lease_ttl=2, **app) as client,
        natsdisc.connect(server.url, lease_ttl=2, **app) as own,
    ):
        mine = await client.register(spec("far"))  # makes the bucket, too
        theirs, local = await owner.register(spec("owner")), await own.register(spec("local"))
        both = sorted([mine, theirs], key=lambda one: one.id)
        async with client.view(endpoints()) as view:
            await view.wait_for(2, timeout=PATIENCE)
            assert await client.list(endpoints()) == await owner.list(endpoints()) == both
            assert await own.list(endpoints()) == [local]
            before = client.stats().renewals.count
            await eventually(lambda: client.stats().renewals.count >= before + 4, PATIENCE)
            assert client.stats().fence_failures == 0
            await client.unregister(mine)
            await eventually(lambda: view.instances == (theirs,), PATIENCE)
        write_context(
            shell,
            "far",
            url=server.url,
            user="app",
            password="x",
            inbox_prefix="_INBOX_app",
            jetstream_api_prefix="hub.API",
        )
        select_context(shell, "far")
        assert [one["endpoint"] for one in json.loads((await shell.run("ls", "--json")).out)] == ["owner"]


async def listed(shell: Shell, url: str, *options: str) -> list[dict[str, Any]]:
    outcome = await shell.run("ls", "--json", "-s", url, *options)
    assert outcome.code == 0, outcome
    found: list[dict[str, Any]] = json.loads(outcome.out)
    return found


def write_context(shell: Shell, name: str, **fields: str) -> None:
    folder = Path(shell.environment["XDG_CONFIG_HOME"]) / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(fields))


def select_context(shell: Shell, name: str) -> None:
    (Path(shell.environment["XDG_CONFIG_HOME"]) / "nats" / "context.txt").write_text(f"{name}\n")
