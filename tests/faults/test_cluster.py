"""Three nodes and buckets with three replicas: nodes die, hang and are partitioned, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import nats.errors
import pytest

from natsdisc.server import NatsServer
from tests.rig import Cluster, eventually

from .kit import DEADLINE, STREAMS, Fleet, Plain

HANG = 15.0
# nats-py leaves a connection to the garbage collector when a node that hangs accepts it and says nothing.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
INSTANCES, CARDS = STREAMS


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as cluster:
        yield cluster


def alive(cluster: Cluster) -> list[NatsServer]:
    return [node for node in cluster.nodes if node.running]


async def leaders_elected(cluster: Cluster, since: float) -> float:
    """When the cluster and both streams had a leader again."""
    await cluster.ready()
    await asyncio.gather(*map(cluster.leader, STREAMS))
    print(f"leaders {time.monotonic() - since:.1f} s after the fault began")
    return time.monotonic()


async def caught_up(fleet: Fleet) -> None:
    """Wait until every replica has everything, and so a majority without any one of them."""

    async def current() -> bool:
        with contextlib.suppress(nats.errors.Error):
            infos = [await fleet.plain.js.stream_info(stream) for stream in STREAMS]
            replicas = [info.cluster.replicas for info in infos if info.cluster and info.cluster.leader]
            states = [replica.current for found in replicas for replica in found or []]
            return len(states) == 4 and all(states)
        return False

    await eventually(current, DEADLINE)


def node_of(fleet: Fleet, cluster: Cluster) -> NatsServer:
    """The node that this process's first watcher, and so some of the others, is connected to."""
    client = fleet.watching[0]._store._requester.connection  # type: ignore[attr-defined]
    [node] = [node for node in cluster.nodes if node.port == client.connected_url.port]
    return node


async def change_something(fleet: Fleet, cluster: Cluster, numbers: range) -> None:
    """Another client deletes what was there and puts as much, on a connection of its own."""
    async with Plain.connected([node.url for node in alive(cluster)]) as other:
        await fleet.delete_foreign([int(id.endpoint.removeprefix("foreign")) for id in fleet.foreign], other)
        await fleet.put_foreign(numbers, other)


async def test_nodes_that_are_killed(cluster: Cluster) -> None:
    """The node that watchers are connected to, and the stream's leader, at a ttl of 10 s."""
    async with Fleet(cluster.urls, replicas=3, lease_ttl=10) as fleet:
        mine = {str(id) for id in fleet.truth}
        await fleet.put_foreign(range(20))
        await fleet.converged()

        node = node_of(fleet, cluster)
        begun = time.monotonic()
        node.kill()
        there_is_a_leader = await leaders_elected(cluster, begun)
        await change_something(fleet, cluster, range(20, 40))
        await fleet.converged("three nodes: the connected node killed", there_is_a_leader)
        await cluster.restart(node)
        await caught_up(fleet)

        node = await cluster.leader(INSTANCES)
        begun = time.monotonic()
        node.kill()
        there_is_a_leader = await leaders_elected(cluster, begun)
        await change_something(fleet, cluster, range(40, 60))
        await fleet.converged("three nodes: the stream's leader killed", there_is_a_leader)
        await cluster.restart(node)
        await fleet.converged("three nodes: a killed node is back", time.monotonic())
        # No registration was ever seen to go, and so none to come again: a fold takes no second Added.
        assert not mine & await fleet.removed()


@pytest.mark.parametrize("which", ["leader", "connected", "partitioned"])
async def test_a_node_that_hangs(cluster: Cluster, which: str) -> None:
    """For 15 s at a ttl of 20 s: the leader, one that processes are connected to, one that is neither."""
    async with Fleet(cluster.urls, replicas=3, lease_ttl=20) as fleet:
        mine = {str(id) for id in fleet.truth}
        await fleet.put_foreign(range(20))
        await fleet.converged()
        leaders = [await cluster.leader(stream) for stream in STREAMS]
        if which == "leader":
            node = leaders[0]
        elif which == "connected":
            node = node_of(fleet, cluster)
        else:
            node = random.choice([node for node in cluster.nodes if node not in leaders])
        begun = time.monotonic()
        node.suspend()
        if which == "partitioned":
            # Those who are with the majority go on at once.
            others = [other for other in cluster.nodes if other is not node]
            async with Plain.connected([other.url for other in others]) as other:
                await fleet.delete_foreign(range(20), other)
                await fleet.put_foreign(range(20, 40), other)
        await asyncio.sleep(HANG - (time.monotonic() - begun))  # the fault
        node.resume()
        there_is_a_leader = await leaders_elected(cluster, begun)
        if which != "partitioned":
            await change_something(fleet, cluster, range(20, 40))
        await fleet.converged(
            f"three nodes: the {which} node hung for 15 s", there_is_a_leader, timeout=DEADLINE
        )
        assert not mine & await fleet.removed()
        assert all(writer.discovery.stats().fence_failures == 0 for writer in fleet.writers)
