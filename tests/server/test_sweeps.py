"""What a server brings back after an unclean stop, and what is removed of it: on real servers, in files."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Removed, Transport, acl, endpoints
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import Cluster, eventually, server_binary

PATIENCE = 60.0
STREAM = "KV_v1_instances"
VALUES, LEASES = "$KV.v1_instances.", "$NATSDISC.LEASE.v1_instances."
FILES: dict[str, Any] = {"storage": "file", "tombstone_ttl": 1}


def spec(name: str, component: str = "comp") -> EndpointSpec:
    return EndpointSpec("ns", component, name, transport=Transport.nats("addr"))


async def ask(client: nats.NATS, subject: str, question: Any = None) -> dict[str, Any]:
    payload = json.dumps(question).encode() if question is not None else b""
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{subject}", payload, timeout=5)).data)
    return answer


async def keys(client: nats.NATS, prefix: str = VALUES) -> set[str]:
    """The keys that the stream's leader has a message of; a sweep's mark is no key."""
    info = await ask(client, f"STREAM.INFO.{STREAM}", {"subjects_filter": f"{prefix}>"})
    found = {subject.removeprefix(prefix) for subject in info["state"].get("subjects") or {}}
    return {key for key in found if key.count(".") > 2}


async def copies(client: nats.NATS) -> dict[str, int]:
    """How many keys a plain consumer finds on each node of a cluster."""
    found: dict[str, int] = {}
    for _ in range(40):
        name = secrets.token_hex(6)
        config = {
            "name": name,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": f"{VALUES}>",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000,
        }
        subject = f"CONSUMER.CREATE.{STREAM}.{name}.{VALUES}>"
        made = await ask(client, subject, {"stream_name": STREAM, "config": config})
        await ask(client, f"CONSUMER.DELETE.{STREAM}.{name}")
        if "cluster" in made:
            found[made["cluster"]["leader"]] = made["num_pending"]
        if len(found) == 3:
            break
    return found


async def live_and_die(url: str | list[str], how: str, *, component: str = "comp") -> None:
    """Register, renew some and others not, and end; wait until nothing of it is left on the server."""
    discovery = await natsdisc.connect(url, lease_ttl=3, **FILES)
    for number in range(5):
        await discovery.register(spec(f"renewed{number}", component))
    await eventually(lambda: discovery.stats().renewals.count >= 10, PATIENCE)
    for number in range(5):
        await discovery.register(spec(f"new{number}", component))
    await (crash(discovery) if how == "crashed" else discovery.close())
    client = await nats.connect(url)

    async def nothing_is_left() -> bool:
        return not any(f".{component}." in key for key in await keys(client) | await keys(client, LEASES))

    await eventually(nothing_is_left, PATIENCE)
    await client.close()


async def brought_back(url: str) -> int:
    """How many dead entries a server has that was just killed and started again."""
    client = await nats.connect(url)
    found = [key for key in await keys(client) if ".comp." in key]
    await client.close()
    if not found:
        pytest.skip("this time the server brought nothing back")
    return len(found)


@pytest.mark.parametrize("how", ["crashed", "left"])
@pytest.mark.parametrize("version", ["2.12.8", None], ids=["2.12", "newest"])
async def test_what_a_killed_server_brings_back_is_removed(version: str | None, how: str) -> None:
    with NatsServer(server_binary(version)) as server:
        async with natsdisc.connect(server.url, lease_ttl=3, **FILES) as stays:
            mine = await stays.register(spec("stays", "elsewhere"))
            unleased = await stays.register(spec("unleased", "elsewhere"), lease_ttl=None)
            await live_and_die(server.url, how)
            events = stays.list_and_watch(endpoints("ns", "elsewhere"))
            await events.synced()
            server.kill()
            await asyncio.to_thread(server.start)
            client = await nats.connect(server.url)
            assert len(await keys(client)) == 12, "this server brought nothing back: the test proves nothing"

            async def nobody_else() -> bool:
                ours = {"ns.elsewhere.stays", "ns.elsewhere.unleased"}
                values = {key.rpartition(".")[0] for key in await keys(client)}
                leases = {key.rpartition(".")[0] for key in await keys(client, LEASES)}
                return values == ours and leases == {"ns.elsewhere.stays"}

            await eventually(nobody_else, PATIENCE)
            assert await stays.list(endpoints()) == sorted([mine, unleased], key=lambda one: one.endpoint)
            assert stays.stats().swept == 10
            assert [(await anext(events)).instance for _ in range(2)] == [mine, unleased]  # type: ignore[union-attr]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(events)
            await events.aclose()
            await client.close()


async def test_a_confined_process_sweeps_its_own_component() -> None:
    allowed = acl.permissions(acl.Role.REGISTRAR, namespace="ns", component="comp", create=True)
    users = f"users: [{{user: all, password: p}}, {{user: one, password: p, {allowed.as_conf()} }}]"
    with NatsServer(config=f"accounts {{ A {{ jetstream: enabled, {users} }} }}") as server:
        url = server.url.replace("nats://", "nats://all:p@")
        await live_and_die(url, "crashed")
        await live_and_die(url, "crashed", component="other")
        server.kill()
        await asyncio.to_thread(server.start)
        async with natsdisc.connect(server.url, user="one", password="p", lease_ttl=3, **FILES) as confined:
            await confined.register(spec("mine"))
            client = await nats.connect(url)

            async def own_are_gone() -> bool:
                return {key.split(".")[2] for key in await keys(client) if ".comp." in key} == {"mine"}

            await eventually(own_are_gone, PATIENCE)
            assert len([key for key in await keys(client) if ".other." in key]) == 10
            async with natsdisc.connect(url, lease_ttl=3, **FILES) as everywhere:
                mine = await everywhere.register(spec("also", "third"))

                async def all_are_gone() -> bool:
                    return {one.endpoint for one in await everywhere.list(endpoints())} == {"mine", "also"}

                await eventually(all_are_gone, PATIENCE)
                assert mine in await everywhere.list(endpoints())
            await client.close()


async def test_living_instances_whose_leases_were_taken_off_stay() -> None:
    with NatsServer() as server:
        async with natsdisc.connect(server.url, lease_ttl=6, **FILES) as bank:
            for number in range(20):
                await bank.register(spec(f"bank{number}", "bank"))
            watch = bank.list_and_watch(endpoints("ns", "bank"))
            await watch.synced()
            client = await nats.connect(server.url)
            taken = await keys(client, LEASES)
            for key in taken:
                await client.request(LEASES + key, b"", headers={"Nats-TTL": "1s"})
            # A process that starts here looks at everything, and knows nothing of the bank's renewals.
            async with natsdisc.connect(server.url, lease_ttl=6, **FILES) as other:
                await other.register(spec("other"))
                renewed = bank.stats().renewals.count
                await eventually(lambda: bank.stats().renewals.count >= renewed + 80, PATIENCE)
                assert len(await other.list(endpoints("ns", "bank"))) == 20
            assert await keys(client, LEASES) >= taken
            for _ in range(20):
                assert not isinstance(await anext(watch), Removed)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(watch)
            await watch.aclose()
            await client.close()


async def test_one_process_sweeps_for_all() -> None:
    with NatsServer() as server:
        await live_and_die(server.url, "crashed")
        server.kill()
        await asyncio.to_thread(server.start)
        brought = await brought_back(server.url)
        fleet = [await natsdisc.connect(server.url, lease_ttl=3, **FILES) for _ in range(20)]
        await asyncio.gather(*(one.register(spec(f"one{number}")) for number, one in enumerate(fleet)))

        async def dead_are_gone() -> bool:
            return len(await fleet[0].list(endpoints())) == 20

        await eventually(dead_are_gone, PATIENCE)
        assert sum(one.stats().swept for one in fleet) == brought
        for one in fleet:
            await one.close()


@pytest.mark.parametrize("killed", ["follower", "leader", "all"])
async def test_copies_that_differ_are_made_alike(killed: str) -> None:
    async with Cluster() as cluster, natsdisc.connect(cluster.urls, lease_ttl=6, **FILES) as stays:
        mine = await stays.register(spec("stays", "elsewhere"))
        await live_and_die(cluster.urls, "left")
        events = stays.list_and_watch(endpoints())
        assert (await anext(events)).instance == mine  # type: ignore[union-attr]
        leader = await cluster.leader(STREAM)
        others = [node for node in cluster.nodes if node is not leader]
        victims = {"follower": others[:1], "leader": [leader], "all": cluster.nodes}[killed]
        for node in victims:
            node.kill()
        for node in victims:
            await asyncio.to_thread(node.start)
        await cluster.ready()
        client = await nats.connect(cluster.urls)
        assert max((await copies(client)).values()) > 1, "no copy is wrong: the test proves nothing"

        async def all_alike() -> bool:
            found = await copies(client)
            return len(found) == 3 and set(found.values()) == {1}

        await eventually(all_alike, PATIENCE)
        assert await stays.list(endpoints()) == [mine]
        if killed != "all":
            assert stays.stats().wrong_copies > 0
        await events.aclose()
        await client.close()


async def test_readers_of_a_wrong_copy_show_what_the_leader_has() -> None:
    """Without a lease nobody sweeps, so the copy stays wrong; readers come to lie on every node."""
    options: dict[str, Any] = {"storage": "file", "tombstone_ttl": 1, "lease_ttl": None}
    async with Cluster() as cluster, natsdisc.connect(cluster.urls, **options) as owner:
        mine = await owner.register(spec("stays"))
        for instance in [await owner.register(spec(f"gone{number}")) for number in range(5)]:
            await owner.unregister(instance)
        client = await nats.connect(cluster.urls)

        async def tombstones_are_gone() -> bool:
            return len(await keys(client)) == 1

        await eventually(tombstones_are_gone, PATIENCE)
        leader = await cluster.leader(STREAM)
        victim = next(node for node in cluster.nodes if node is not leader)
        victim.kill()
        await cluster.restart(victim)
        assert max((await copies(client)).values()) == 6, "no copy is wrong: the test proves nothing"
        for _ in range(6):
            async with natsdisc.connect(cluster.urls) as reader:
                assert await reader.list(endpoints()) == [mine]
                # So many queries that further ones of the namespace share a consumer.
                views = [reader.view(endpoints("ns", "comp", f"ep{number}")) for number in range(32)]
                first = reader.view(endpoints("ns"))
                await first.wait_for(0, PATIENCE)
                second = reader.view(endpoints("ns", "comp"))  # joins it
                await second.wait_for(0, PATIENCE)
                assert (first.instances, second.instances) == ((mine,), (mine,))
                assert all(len(view) == 0 for view in views)
        assert max((await copies(client)).values()) == 6
        await client.close()


async def test_a_sweep_outlives_the_end_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    def sweeping() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if "sweeper" in task.get_name() and not task.done()]

    with NatsServer() as server:
        await live_and_die(server.url, "crashed")
        async with natsdisc.connect(server.url, lease_ttl=3, **FILES) as stays:
            mine = await stays.register(spec("stays", "elsewhere"))
            [task] = sweeping()
            task.cancel()
            await eventually(lambda: task.done() and sweeping(), PATIENCE)
            assert "it is started again" in caplog.text
            server.kill()
            await asyncio.to_thread(server.start)
            await brought_back(server.url)

            async def nobody_else() -> bool:
                return await stays.list(endpoints()) == [mine] and stays.stats().swept > 0

            await eventually(nobody_else, PATIENCE)
        assert sweeping() == []
