"""Random faults for as long as you like: `python -m tests.faults.chaos --seconds 600 --instances 1000`.

The seed is printed; the same seed makes the same faults in the same order with the same lengths. What happens
between them depends on the machine. At the end, and now and then between faults, everything must be as if
nothing had happened: no ghost, nothing missing, no event that could not be, no consumer, task or memory left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import nats.errors

from natsdisc import DiscoveryError, wire
from natsdisc.server import NatsServer
from tests.faults.kit import QUERIES, Fleet, Plain, foreign
from tests.faults.partition import Network
from tests.faults.proxy import Direction, Proxy
from tests.rig import eventually

__all__ = ["run"]

_T = TypeVar("_T")

SETTLING = 90.0  # a lease, a server that hangs and a slow machine together
MEMORY_GROWTH = 64.0  # MiB: far more than one run's buckets, far less than a leak of minutes
CONSUMERS_END = 40.0  # the server throws out those of broken connections after 10 s
CHANGES_PER_WRITER = 10  # a second


class Chaos:
    """A fleet, and what is done to it."""

    def __init__(
        self,
        fleet: Fleet,
        seed: int,
        nodes: list[NatsServer],
        links: dict[str, Proxy],
        cluster: Network | None,
    ) -> None:
        self._fleet, self._seed, self._nodes, self._cluster = fleet, seed, nodes, cluster
        self._links = links
        self._calm = asyncio.Event()
        self._calm.set()
        self._busy = 0
        self._vanished: set[int] = set()
        self._unknown = contextlib.ExitStack()  # whether what has vanished is there: see below
        self._ended = False
        self.faults: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self._kinds: tuple[Callable[[random.Random], Awaitable[str]], ...] = (
            self._server_is_killed,
            self._server_hangs,
            self._link_is_cut,
            self._link_stalls,
            self._link_is_half_open,
            self._link_is_slow,
            self._consumers_are_deleted,
            self._bucket_is_deleted,
            self._keys_are_deleted,
            self._keys_vanish,
            self._writer_crashes,
            self._watches_open_and_close,
        )
        if cluster is not None:
            self._kinds += (self._node_is_parted,)

    async def run(self, seconds: float, say: Callable[[str], object]) -> None:
        """Make faults for so long; raises AssertionError when something does not come back."""
        await self._fleet.put_foreign(range(40))
        await self._check(say)
        async with self._fleet.witness.resting():
            tasks, memory = _tasks(), _memory()
        started, step = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._fleet.writers)):
                group.create_task(self._churn(number))
            try:
                while time.monotonic() < started + seconds:
                    step += 1
                    chance = random.Random(f"{self._seed}/{step}")
                    kind = chance.choice(self._kinds)
                    self.faults[kind.__name__.strip("_")] += 1
                    told = await kind(chance)
                    say(f"{time.monotonic() - started:7.1f} s  {step:4}  {told}")
                    # Sometimes the next one comes before this one is over.
                    if chance.random() < 0.5:
                        await self._check(say)
            finally:
                self._ended = True
                self._calm.set()
        await self._check(say)
        async with self._fleet.witness.resting():
            await self._check_leaks(tasks, memory, say)
        self._unknown.close()
        say(f"lists: {dict(self._fleet.witness.answers)}")
        say(f"changes: {dict(self.changes)}\nfaults: {dict(self.faults)}")

    async def _check(self, say: Callable[[str], object]) -> None:
        self._calm.clear()
        await eventually(lambda: not self._busy, SETTLING)
        started = time.monotonic()
        await self._fleet.converged(timeout=SETTLING)
        took, instances = time.monotonic() - started, len(self._fleet.truth)
        say(f"                 converged after {took:.2f} s: {instances} instances")
        if not self._ended:
            self._calm.set()

    async def _check_leaks(self, tasks: int, memory: float, say: Callable[[str], object]) -> None:
        # For the server a half-open connection lives, and so do the consumers that deliver to it.
        for link in self._links.values():
            link.cut()
            await link.heal()
        await self._check(say)
        expected = {"here": len(self._fleet.watching) * len(QUERIES)}
        expected["there"] = expected["here"]
        found: list[tuple[str, str]] = []

        async def no_consumer_more() -> bool:
            found[:] = await self._fleet.plain.consumers()
            return len(found) == sum(expected.values())

        try:
            await eventually(no_consumer_more, CONSUMERS_END)
        except AssertionError as error:
            raise AssertionError(f"{len(found)} consumers, not {expected}") from error
        await eventually(lambda: _tasks() <= tasks, CONSUMERS_END)
        gc.collect()
        grown = _memory() - memory
        say(f"{len(found)} consumers, {_tasks()} tasks, {grown:+.1f} MiB")
        assert grown < MEMORY_GROWTH, f"the process has grown by {grown:.1f} MiB"

    async def _churn(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/writer {number}")
        while not self._ended:
            await self._calm.wait()
            self._busy += 1
            try:
                await self._fleet.writers[number].do_something(chance)
                self.changes["made"] += 1
            except DiscoveryError as error:
                # It may have been done or not: the leases decide, and the truth follows them.
                self.changes[type(error).__name__] += 1
            finally:
                self._busy -= 1
            await asyncio.sleep(1 / CHANGES_PER_WRITER)

    # The faults. Each is over when it returns, and says what it was.

    async def _server_is_killed(self, chance: random.Random) -> str:
        node, down = chance.choice(self._nodes), chance.uniform(0, 3)
        node.kill()
        await asyncio.sleep(down)
        if self._cluster is not None:
            await self._cluster.restart(node)
        else:
            await asyncio.to_thread(node.start)
        await self._take_back_what_vanished()
        return f"server killed, back after {down:.1f} s"

    async def _take_back_what_vanished(self) -> None:
        """Put into the truth what the server itself brought back.

        nats-server 2.15.1 on file storage, killed, comes back with the value of a key whose tombstone was
        purged (measured: always). It is in the bucket then, and so it is what watchers have to see.
        """
        stored = await self._persist(self._fleet.plain.stored)
        for id in {foreign(number).id for number in self._vanished} - self._fleet.foreign.keys():
            if Plain.subject(id) in stored:
                self._fleet.foreign[id] = wire.loads(stored[Plain.subject(id)])
                self.changes["brought back by the server"] += 1

    async def _node_is_parted(self, chance: random.Random) -> str:
        assert self._cluster is not None
        (one, other), lasts = chance.sample(self._nodes, 2), chance.uniform(1, 12)
        silently, wholly = chance.random() < 0.5, chance.random() < 0.7
        if wholly:
            self._cluster.isolate(one, silently=silently)
        else:
            self._cluster.part(one, other, silently=silently)
        await asyncio.sleep(lasts)
        await self._cluster.heal()
        await self._cluster.ready()
        from_whom = "both others" if wholly else "one other"
        return f"node parted from {from_whom} for {lasts:.1f} s{', silently' if silently else ''}"

    async def _server_hangs(self, chance: random.Random) -> str:
        node, hangs = chance.choice(self._nodes), chance.uniform(0.5, 6)
        node.suspend()
        await asyncio.sleep(hangs)
        node.resume()
        return f"server hung for {hangs:.1f} s"

    async def _link_is_cut(self, chance: random.Random) -> str:
        who, lasts = chance.choice(list(self._links)), chance.uniform(0, 4)
        self._links[who].cut()
        await asyncio.sleep(lasts)
        await self._links[who].heal()
        return f"link of the {who} cut for {lasts:.1f} s"

    async def _link_stalls(self, chance: random.Random) -> str:
        who, lasts = chance.choice(list(self._links)), chance.uniform(0.5, 8)
        direction = chance.choice([Direction.TO_SERVER, Direction.TO_CLIENT, Direction.BOTH])
        self._links[who].stall(direction)
        await asyncio.sleep(lasts)
        await self._links[who].heal()
        return f"link of the {who} stalled for {lasts:.1f} s ({direction.name})"

    async def _link_is_half_open(self, chance: random.Random) -> str:
        who, lasts, new = chance.choice(list(self._links)), chance.uniform(0, 6), chance.random() < 0.5
        self._links[who].half_open(new=new)
        await asyncio.sleep(lasts)
        await self._links[who].heal()
        fresh = "good" if new else f"bad for {lasts:.1f} s"
        return f"link of the {who} half open for ever, new connections {fresh}"

    async def _link_is_slow(self, chance: random.Random) -> str:
        who, lasts, delay = chance.choice(list(self._links)), chance.uniform(1, 3), chance.uniform(0.05, 0.5)
        self._links[who].delay(delay)
        await asyncio.sleep(lasts)
        await self._links[who].heal()
        return f"link of the {who} {delay:.2f} s slow for {lasts:.1f} s"

    async def _consumers_are_deleted(self, chance: random.Random) -> str:
        share, deleted = chance.random(), 0
        for stream, name in await self._persist(self._fleet.plain.consumers):
            if chance.random() < share:
                with contextlib.suppress(nats.errors.Error):
                    deleted += await self._fleet.plain.js.delete_consumer(stream, name)
        return f"{deleted} consumers deleted"

    async def _bucket_is_deleted(self, chance: random.Random) -> str:
        with self._fleet.foreign.changing():
            await self._persist(self._fleet.lose_everything)
        by_others = chance.random() < 0.5 or self._cluster is not None
        if by_others:
            replicas = 1 if self._cluster is None else 3
            await self._persist(lambda: self._fleet.plain.make_buckets(num_replicas=replicas))
        return f"buckets deleted, and made again by {'others' if by_others else 'the writers'}"

    async def _keys_are_deleted(self, chance: random.Random) -> str:
        numbers = [number for number in range(40) if foreign(number).id in self._fleet.foreign]
        gone = chance.sample(numbers, len(numbers) // 2)
        await self._persist_foreign(gone, range(0))
        held = [id for id in self._fleet.truth if id not in self._fleet.foreign]
        for id in chance.sample(held, min(5, len(held))):
            await self._persist(lambda: self._fleet.plain.delete(id))  # noqa: B023
        return f"{len(gone)} keys deleted by others, and 5 of the writers'"

    async def _keys_vanish(self, chance: random.Random) -> str:
        new = range(chance.randrange(40))
        await self._persist_foreign([], new)
        vanished = [number for number in new if chance.random() < 0.5]
        self._vanished.update(vanished)
        self._unknown.enter_context(self._fleet.foreign.changing(foreign(number).id for number in vanished))
        self._links["watchers"].cut()
        await self._persist_foreign(vanished, range(0))
        for number in vanished:
            await self._persist(lambda: self._fleet.plain.vanish(foreign(number).id))  # noqa: B023
        await self._links["watchers"].heal()
        return f"{len(new)} keys put by others, {len(vanished)} deleted and purged while nobody could watch"

    async def _writer_crashes(self, chance: random.Random) -> str:
        number = chance.randrange(len(self._fleet.writers))
        await self._persist(lambda: self._fleet.crash_writer(number))
        # Its successor registers by and by; most of it at once.
        with contextlib.suppress(DiscoveryError, ExceptionGroup):
            await self._fleet.writers[number].register_all()
        return f"writer {number} crashed, and another one took its place"

    async def _watches_open_and_close(self, chance: random.Random) -> str:
        places = chance.sample(range(len(self._fleet.followers)), len(self._fleet.followers) // 2)
        for at in places:
            await self._fleet.open_follower(at).aclose()
        discovery = chance.choice(self._fleet.watching)
        for _ in range(20):
            dropped = discovery.list_and_watch(chance.choice(QUERIES))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0, 0.05)):
                    await dropped.synced()
        return f"{len(places)} watches closed and opened again, 20 opened and dropped"

    async def _persist_foreign(self, delete: list[int], put: range) -> None:
        """What the plain client's instances become; said again until the server has answered."""
        fleet = self._fleet
        delete = [number for number in delete if foreign(number).id in fleet.foreign]
        for number in [*delete, *put]:
            change = fleet.put_foreign if number in put else fleet.delete_foreign
            with fleet.foreign.changing([foreign(number).id]):
                await self._persist(lambda: change([number]))  # noqa: B023

    async def _persist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        deadline = time.monotonic() + SETTLING
        while True:
            try:
                return await action()
            except (nats.errors.Error, DiscoveryError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)


async def run(
    *,
    seconds: float,
    seed: int,
    instances: int,
    nodes: int = 1,
    discoveries: int = 3,
    lease_ttl: float = 10.0,
    say: Callable[[str], object] = print,
) -> None:
    """One run; raises AssertionError when something does not come back."""
    say(f"seed {seed}: {instances} instances, {nodes} nodes, {seconds:g} s of faults")
    writers = max(1, min(10, instances // 5))
    async with contextlib.AsyncExitStack() as opened:
        cluster: Network | None = None
        if nodes == 1:
            servers = [await opened.enter_async_context(NatsServer())]
        else:
            cluster = await opened.enter_async_context(Network(size=nodes))
            servers = cluster.nodes
        # On a cluster clients learn of all nodes, and go past the proxies when they come back.
        proxies = [await opened.enter_async_context(Proxy(servers[0].port)) for _ in range(2)]
        fleet = await opened.enter_async_context(
            Fleet(
                [server.url for server in servers],
                watch_urls=proxies[0].url,
                write_urls=proxies[1].url,
                discoveries=discoveries,
                writers=writers,
                each=instances // writers,
                lease_ttl=lease_ttl,
                replicas=min(3, nodes),
            )
        )
        links = dict(zip(("watchers", "writers"), proxies, strict=True))
        await Chaos(fleet, seed, servers, links, cluster).run(seconds, say)
    say(f"seed {seed}: nothing was lost, invented or left behind")


def _tasks() -> int:
    """How many tasks there are, but for those of half-open connections in the proxies."""
    return sum(not task.get_name().startswith("proxy") for task in asyncio.all_tasks())


def _memory() -> float:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=1, choices=[1, 3])
    parser.add_argument("--verbose", action="store_true", help="with the log of natsdisc")
    given = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO if given.verbose else logging.CRITICAL,
        stream=sys.stderr,
        format="%(asctime)s %(message)s",
    )

    def say(text: str) -> None:
        print(text, flush=True)

    asyncio.run(
        run(seconds=given.seconds, seed=given.seed, instances=given.instances, nodes=given.nodes, say=say)
    )


if __name__ == "__main__":
    main()
