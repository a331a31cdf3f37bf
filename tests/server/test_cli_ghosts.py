"""What the command line says of dead leases and wrong copies, and how `prune` ends them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats

import natsdisc
from natsdisc import EndpointSpec, Transport
from natsdisc.server import NatsServer
from tests.rig import Cluster, eventually

from .shell import Shell
from .test_sweeps import STREAM, copies, keys, live_and_die


async def test_what_a_killed_server_brings_back_is_counted_and_pruned(shell: Shell) -> None:
    with NatsServer() as server:
        await live_and_die(server.url, "crashed")
        server.kill()
        await asyncio.to_thread(server.start)
        where = ["--server", server.url]

        async def are_overdue() -> bool:
            shown = json.loads((await shell.run("status", "--json", *where)).out)
            return bool(shown["buckets"]["v1_instances"]["overdue"] == 5)

        await eventually(are_overdue, 30.0)
        assert "5 instances came back with a killed server" in (await shell.run("status", *where)).out
        shown = (await shell.run("prune", "ns/comp/renewed*", *where)).out
        assert shown.count("would be removed") == 5
        pruned = (await shell.run("prune", "ns/comp/renewed*", "--yes", *where)).out
        assert pruned.count("removed  ") == 5
        client = await nats.connect(server.url)
        live = json.loads((await shell.run("ls", "--json", *where)).out)
        assert {one["endpoint"] for one in live} == {f"new{number}" for number in range(5)}
        await client.close()


async def test_a_wrong_copy_is_named(shell: Shell) -> None:
    options: dict[str, Any] = {"storage": "file", "tombstone_ttl": 1, "lease_ttl": None}
    async with Cluster() as cluster, natsdisc.connect(cluster.urls, **options) as discovery:
        # Without a lease nobody sweeps: the copy stays as the killed server made it.
        await discovery.register(EndpointSpec("ns", "comp", "stays", transport=Transport.nats("a")))
        gone = [EndpointSpec("ns", "comp", f"gone{n}", transport=Transport.nats("a")) for n in range(5)]
        for instance in [await discovery.register(spec) for spec in gone]:
            await discovery.unregister(instance)
        client = await nats.connect(cluster.urls)

        async def tombstones_are_gone() -> bool:
            return len(await keys(client)) == 1

        await eventually(tombstones_are_gone, 30.0)
        leader = await cluster.leader(STREAM)
        place, victim = next((place, node) for place, node in enumerate(cluster.nodes) if node is not leader)
        victim.kill()
        await cluster.restart(victim)
        assert max((await copies(client)).values()) == 6, "no copy is wrong: the test proves nothing"
        name = cluster.names[place]
        shown = json.loads((await shell.run("status", "--json", "--server", ",".join(cluster.urls))).out)
        assert shown["buckets"]["v1_instances"]["wrong_copies"] == [{"node": name, "extra": 5, "missing": 0}]
        said = (await shell.run("status", "--server", ",".join(cluster.urls))).out
        assert f"the copy on {name} is wrong: 5 too many, 0 missing" in " ".join(said.split())
        examined = await shell.run("doctor", "--server", ",".join(cluster.urls))
        assert f"the copy on {name} is wrong" in " ".join(examined.out.split())
        await client.close()
