"""Chaos with nodes that are killed, and with instances that end before that.

What is there afterwards is known from what this process did: who lives, who ended, which values of others the
server acknowledged. The server is not asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from natsdisc import Discovery, EndpointSpec, Instance, Transport
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import Cluster, eventually

from .kit import STREAMS, Fleet, Plain, foreign, opened_in

__all__ = ["ENDED", "NOBODY", "Kills", "purge"]

_T = TypeVar("_T")

ENDED = ("expired", "unregistered", "purged")
NOBODY = "nobody"  # the namespace in which no process lives
GUEST_TTL = 2.0
RENEWALS = (0, 1, 4)
DOWN = 5.0  # seconds, at most
PATIENCE = 30.0


async def purge(plain: Plain, instances: Sequence[Instance]) -> None:
    """Remove instances as administrators do: with a purge, `nats kv purge`, or `nats kv del` and a purge."""
    for number, instance in enumerate(instances):
        if number % 3 == 0:
            await plain.vanish(instance.id)
        elif number % 3 == 1:
            await plain.delete(instance.id, "PURGE", Nats_Rollup="sub")
        else:
            await plain.delete(instance.id)
            await plain.vanish(instance.id)


class Kills:
    """Kills nodes of a fleet's servers, and lets instances end before that."""

    def __init__(
        self,
        fleet: Fleet,
        nodes: list[NatsServer],
        cluster: Cluster | None,
        *,
        storage: Literal["file", "memory"],
        tombstone_ttl: float,
        persist: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]],
    ) -> None:
        self._fleet, self._nodes, self._cluster = fleet, nodes, cluster
        self._storage, self._tombstone_ttl, self._persist = storage, tombstone_ttl, persist
        self._guests = 0
        self.back_at = 0.0  # when the servers had a leader again after the last kill

    async def kill(self, chance: random.Random) -> str:
        """Kill one node, two or all with SIGKILL, and start them again."""
        count, down = chance.choice(range(1, len(self._nodes) + 1)), chance.uniform(0, DOWN)
        victims = chance.sample(self._nodes, count)
        if self._storage == "memory":
            # A killed node forgets the values of others, which have no owner to put them back. Their writers
            # write them again, as they must on memory storage. Only then is it known what is there.
            with self._fleet.foreign.changing():
                await self._kill_and_restart(victims, down)
                numbers = [number for number in range(40) if foreign(number).id in self._fleet.foreign]
                await self._persist(lambda: self._fleet.put_foreign(numbers))
        else:
            await self._kill_and_restart(victims, down)
        return f"{count} of {len(self._nodes)} servers killed, back after {down:.1f} s"

    async def end_before_a_kill(self, chance: random.Random) -> str:
        """Let instances register, renew, and end; let their tombstones expire; kill nodes then."""
        ended, renewals, alone = chance.choice(ENDED), chance.choice(RENEWALS), chance.random() < 0.5
        self._guests += 1
        namespace = NOBODY if alone else "ns0"
        specs = [
            EndpointSpec(namespace, "comp", f"guest{self._guests}-{at}", transport=Transport.nats("x"))
            for at in range(12)
        ]
        async with contextlib.AsyncExitStack() as opened:
            guest = await opened_in(
                opened,
                self._fleet.urls,
                lease_ttl=GUEST_TTL,
                tombstone_ttl=self._tombstone_ttl,
                storage=self._storage,
                replicas=min(3, len(self._nodes)),
            )
            instances = [await self._persist(lambda: guest.register(spec)) for spec in specs]  # noqa: B023
            with contextlib.suppress(
                AssertionError
            ):  # the last fault may still be felt: fewer renewals will do
                await eventually(lambda: _renewed(guest) >= renewals * len(instances), PATIENCE)
            if ended == "unregistered":
                await guest.close()
            else:
                await crash(guest)
        if ended == "purged":
            await self._persist(lambda: purge(self._fleet.plain, instances))
        # The lease and its tombstone, and the second that the server takes for each.
        await asyncio.sleep(GUEST_TTL + self._tombstone_ttl + 2.0)
        told = await self.kill(chance)
        where = "where nobody lives" if alone else "among others"
        return f"{len(instances)} instances {ended} {where} after {renewals} renewals; {told}"

    async def _kill_and_restart(self, victims: list[NatsServer], down: float) -> None:
        for node in victims:
            node.kill()
        await asyncio.sleep(down)
        await asyncio.gather(*(asyncio.to_thread(node.restart) for node in victims))
        if self._cluster is not None:
            await self._cluster.ready()
            for stream in STREAMS:
                await self._cluster.leader(stream)
        self.back_at = time.monotonic()


def _renewed(discovery: Discovery) -> int:
    return discovery.stats().renewals.count
