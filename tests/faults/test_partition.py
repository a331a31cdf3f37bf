"""Nodes that are parted from each other and not from their clients."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator

import nats.errors
import pytest

from natsdisc import StoreUnavailableError, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.reader import OrderedReader
from tests.rig import CLUSTER_TIMEOUT, eventually

from .kit import DEADLINE, STREAMS, Fleet, Plain, foreign
from .partition import Network

PARTED = 15.0  # longer than it takes anybody to notice, shorter than a lease
# nats-py leaves connections of a cluster that elects to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Network() as network:
        yield network


async def make_leader(network: Network, plain: Plain, node: NatsServer) -> None:
    """Let `node` lead both streams."""
    name = network.names[network.nodes.index(node)]
    request = json.dumps({"placement": {"preferred": name}}).encode()
    for stream in STREAMS:

        async def leads(stream: str = stream) -> bool:
            if await network.leader(stream) is node:
                return True
            await plain.client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", request, timeout=5)
            return False

        await eventually(leads, CLUSTER_TIMEOUT)


async def written(plain: Plain) -> float:
    """When a majority took a write again."""

    async def write() -> bool:
        try:
            await plain.put(foreign(0))
        except (nats.errors.Error, OSError):
            return False
        return True

    await eventually(write, CLUSTER_TIMEOUT)
    return time.monotonic()


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_node_parted_from_both_others(
    network: Network, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The watchers here are its clients, and those of the other process are with the majority."""
    caplog.set_level(logging.INFO, "natsdisc.watch")
    node, *others = network.nodes
    majority = [other.url for other in others]
    async with Fleet(majority, watch_urls=node.url, outpost_urls=majority, replicas=3, lease_ttl=30) as fleet:
        mine = {str(id) for id in fleet.truth}
        await fleet.put_foreign(range(20))
        await make_leader(network, fleet.plain, node if role == "leader" else others[0])
        await fleet.converged()
        seen = [dict(follower.counts) for follower in fleet.followers]

        network.isolate(node, silently=True)
        begun = time.monotonic()
        there_is_a_leader = await written(fleet.plain)
        ghosts = [foreign(number).id for number in range(1, 20)]
        await fleet.delete_foreign(range(1, 20))
        await asyncio.gather(*map(fleet.plain.vanish, ghosts))  # no tombstone tells of them later
        await fleet.put_foreign(range(20, 40))
        await eventually(lambda: all_right(fleet), DEADLINE)
        fleet.measured(f"three nodes: the {role} parted, seen by the majority", there_is_a_leader)

        # Who cannot see says so. A consumer on this very node still beats, and its silence proves nothing.
        await eventually(lambda: all(discovery.stats().resyncs for discovery in fleet.watching), DEADLINE)
        await eventually(lambda: all(age > 9 for age in ages(fleet)), DEADLINE)
        await eventually(lambda: stale(caplog) == len(fleet.followers), DEADLINE)
        print(f"{role} parted: all watchers stale {time.monotonic() - begun:.1f} s after")
        with pytest.raises(StoreUnavailableError):
            await fleet.watching[0].list(endpoints())
        assert [dict(follower.counts) for follower in fleet.followers] == seen, "nothing is invented"
        await asyncio.sleep(PARTED - (time.monotonic() - begun))  # the fault
        await network.heal()
        healed = time.monotonic()
        await network.ready()
        fleet.measured(f"three nodes: the {role} parted, a quorum everywhere again", healed)
        await fleet.converged(f"three nodes: the parted {role} back, since all nodes are", time.monotonic())
        await eventually(lambda: max(ages(fleet)) < 9, DEADLINE)  # also where nothing had changed
        # When all is calm everything is read once more, and nobody is called stale for that.
        resyncs = fleet.resyncs()
        await eventually(lambda: not any(reader._following.troubled for reader in readers(fleet)), DEADLINE)
        assert fleet.resyncs() == resyncs
        await fleet.converged()
        assert await fleet.removed() == set(map(str, ghosts))
        assert not mine & await fleet.removed()
        assert fleet.witness.answers["StoreUnavailableError"] > 0


async def all_right(fleet: Fleet) -> bool:
    return not await fleet.wrong_there()


def ages(fleet: Fleet) -> list[float]:
    """The seconds since each watcher of this process had its picture confirmed."""
    return [follower.watch._informer.age for follower in fleet.followers if follower.watch._informer]


def readers(fleet: Fleet) -> list[OrderedReader]:
    """What each watcher of this process reads with."""
    informers = [follower.watch._informer for follower in fleet.followers]
    # Few queries: each has a consumer of its own behind the hub.
    found = [getattr(informer._reader, "_reader", None) for informer in informers if informer is not None]
    assert all(isinstance(reader, OrderedReader) for reader in found)
    return found  # type: ignore[return-value]


def stale(caplog: pytest.LogCaptureFixture) -> int:
    """How many watches have said that they are stale, less those that were in sync again."""
    said = [record.message for record in caplog.records]
    return sum("is stale" in line for line in said) - sum("in sync again" in line for line in said)


async def test_two_nodes_parted_from_each_other(network: Network) -> None:
    """The leader and the node of the watchers, which the third node both reaches: nobody is told a lie."""
    node, leader, third = network.nodes
    async with Fleet(
        [third.url], watch_urls=node.url, outpost_urls=leader.url, replicas=3, lease_ttl=30
    ) as fleet:
        mine = {str(id) for id in fleet.truth}
        await fleet.put_foreign(range(20))
        await make_leader(network, fleet.plain, leader)
        await fleet.converged()
        network.part(node, leader)
        begun = time.monotonic()
        await written(fleet.plain)
        await fleet.delete_foreign(range(1, 20))
        await fleet.put_foreign(range(20, 40))
        await asyncio.sleep(PARTED - (time.monotonic() - begun))  # the fault
        await fleet.check_legal()
        await network.heal()
        await network.ready()
        await fleet.converged("three nodes: two parted from each other, since all are back", time.monotonic())
        assert not mine & await fleet.removed()
