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
from typing import Literal, TypeVar

import nats.errors

from natsdisc import DiscoveryError, endpoints, models
from natsdisc.server import NatsServer
from tests.faults.chaos_states import States
from tests.faults.ghost_reader import Reader
from tests.faults.kills import NOBODY, Kills
from tests.faults.kit import QUERIES, STREAMS, Fleet, Plain, foreign
from tests.faults.partition import Network
from tests.faults.proxy import Direction, Proxy
from tests.rig import eventually

__all__ = ["run"]

_T = TypeVar("_T")
Storage = Literal["file", "memory"]

BOUND_LIVING = 10.0  # seconds from the servers' return, for components in which a process lives
BOUND_ALONE = 60.0  # seconds, for the others
FRESH_READERS, FRESH_HOLD = 20, 1.0
LIST_PAUSE = 0.002  # seconds for each instance, so that the lists of fresh readers leave others some time
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
        states: States,
        *,
        storage: Storage,
        tombstone_ttl: float,
        slack: float,
    ) -> None:
        self._fleet, self._seed, self._nodes, self._cluster = fleet, seed, nodes, cluster
        self._links, self._storage, self._slack = links, storage, slack
        self._kills = Kills(
            fleet, nodes, cluster, storage=storage, tombstone_ttl=tombstone_ttl, persist=self._persist
        )
        self._only_kills = False  # since the last check: then the bounds for fresh readers hold
        self._calm = asyncio.Event()
        self._calm.set()
        self._busy = 0
        self._calm_at = 0.0
        self._ended = False
        self.faults: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self._kinds: tuple[Callable[[random.Random], Awaitable[str]], ...] = (
            self._nodes_are_killed,
            self._instances_end_before_a_kill,
            self._server_hangs,
            self._link_is_cut,
            self._link_stalls,
            self._link_is_half_open,
            self._link_is_slow,
            self._consumers_are_deleted,
            self._bucket_is_deleted,
            self._keys_are_deleted,
            self._keys_vanish if storage == "memory" else self._keys_of_owners_vanish,
            self._writer_crashes,
            self._watches_open_and_close,
            *states.kinds(fleet, links),
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
                    kills = kind in (self._nodes_are_killed, self._instances_end_before_a_kill)
                    self._only_kills = self._only_kills and kills
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
        say(f"lists: {dict(self._fleet.witness.answers)}")
        say(f"changes: {dict(self.changes)}\nfaults: {dict(self.faults)}")

    async def _check(self, say: Callable[[str], object]) -> None:
        self._calm.clear()
        await eventually(lambda: not self._busy, SETTLING)
        self._calm_at = time.monotonic()
        fresh, took = await asyncio.gather(self._fresh_readers(), self._converged())
        instances = len(self._fleet.truth)
        say(
            f"                 converged after {took:.2f} s: {instances} instances; "
            f"{FRESH_READERS} fresh readers right after {fresh:.2f} s"
        )
        self._only_kills = True
        if not self._ended:
            self._calm.set()

    async def _converged(self) -> float:
        started = time.monotonic()
        await self._fleet.converged(timeout=SETTLING)
        return time.monotonic() - started

    async def _fresh_readers(self) -> float:
        """Open readers at every node; return the seconds until each showed what there is, and went on to.

        After nothing but kills they count from when the servers were back, and have to be within the bounds.
        """
        truth = set(map(Plain.subject, self._fleet.truth))
        since = max(self._kills.back_at, self._calm_at) if self._only_kills else self._calm_at
        living, alone = (BOUND_LIVING, BOUND_ALONE) if self._only_kills else (SETTLING, SETTLING)
        pause = len(truth) * LIST_PAUSE
        async with contextlib.AsyncExitStack() as opened:
            readers = [
                await opened.enter_async_context(
                    Reader(
                        self._nodes[at % len(self._nodes)].url,
                        models() if at % 4 == 3 else endpoints(),
                        pause=pause,
                    ).reading()
                )
                for at in range(FRESH_READERS)
            ]
            right_at: float | None = None
            while right_at is None or time.monotonic() < right_at + FRESH_HOLD:
                now = time.monotonic()
                wrong = [one for reader in readers for one in reader.wrong(truth)]
                if not wrong:
                    right_at = right_at or now
                else:
                    right_at = None
                    elsewhere = [one for one in wrong if f".{NOBODY}." not in one]
                    bound = self._slack * (living if elsewhere else alone)
                    told = "; ".join((elsewhere or wrong)[:20])
                    assert now - since <= bound, f"fresh readers wrong for {now - since:.1f} s: {told}"
                await asyncio.sleep(0.1)
            problems = [problem for reader in readers for problem in reader.problems]
            assert not problems, problems
        return right_at - since

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

    async def _nodes_are_killed(self, chance: random.Random) -> str:
        return await self._kills.kill(chance)

    async def _instances_end_before_a_kill(self, chance: random.Random) -> str:
        return await self._kills.end_before_a_kill(chance)

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
            await self._persist(lambda: self._fleet.plain.make_buckets(self._storage, num_replicas=replicas))
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
        """Let values without a lease go without a trace; on memory storage only.

        A server on file storage that is killed brings such a value back (nats-server#8505). It has no lease
        and no owner, so nothing tells it from a registration that is meant to stay: natsdisc cannot be held
        to remove it. A value without a lease that others only delete leaves its mark, and stays away.
        """
        new = range(chance.randrange(40))
        await self._persist_foreign([], new)
        vanished = [number for number in new if chance.random() < 0.5]
        self._links["watchers"].cut()
        await self._persist_foreign(vanished, range(0))
        for number in vanished:
            await self._persist(lambda: self._fleet.plain.vanish(foreign(number).id))  # noqa: B023
        await self._links["watchers"].heal()
        return f"{len(new)} keys put by others, {len(vanished)} deleted and purged while nobody could watch"

    async def _keys_of_owners_vanish(self, chance: random.Random) -> str:
        """Let values that have an owner go without a trace: their owners put them back."""
        held = sorted(map(Plain.subject, self._fleet.truth.keys() - self._fleet.foreign.keys()))
        subjects = chance.sample(held, min(20, len(held)))
        self._links["watchers"].cut()
        for subject in subjects:
            stream = next(stream for stream in STREAMS if stream.removeprefix("KV_") == subject.split(".")[1])
            await self._persist(
                lambda: self._fleet.plain.js.purge_stream(stream, subject=subject)  # noqa: B023
            )
        await self._links["watchers"].heal()
        return f"{len(subjects)} keys of the writers purged while nobody could watch"

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
    storage: Storage | None = None,
    discoveries: int = 3,
    lease_ttl: float = 10.0,
    slack: float = 1.0,
    say: Callable[[str], object] = print,
) -> None:
    """Make one run; raise AssertionError when something does not come back.

    Without `storage` the seed chooses it. `slack` stretches the bounds for fresh readers on a slow machine.
    """
    storages: tuple[Storage, ...] = ("memory", "file")
    by_seed: Storage = random.Random(f"{seed}/storage").choice(storages)
    stored: Storage = storage or by_seed
    tombstone_ttl = random.Random(f"{seed}/tombstones").choice([1.0, 2.0])
    say(f"seed {seed}: {instances} instances, {nodes} nodes, {stored} storage, {seconds:g} s of faults")
    writers = max(1, min(10, instances // 5))
    async with contextlib.AsyncExitStack() as opened:
        states = opened.enter_context(States(seed))
        cluster = None if nodes == 1 else Network(size=nodes)
        servers = [NatsServer()] if cluster is None else cluster.nodes
        states.prepare(servers)
        await opened.enter_async_context(servers[0] if cluster is None else cluster)
        # On a cluster clients learn of all nodes, and go past the proxies when they come back.
        proxies = [await opened.enter_async_context(Proxy(servers[0].port)) for _ in range(2)]
        fleet = await opened.enter_async_context(
            Fleet(
                [server.url for server in servers],
                watch_urls=states.url("watchers", proxies[0]),
                write_urls=states.url("writers", proxies[1]),
                discoveries=discoveries,
                writers=writers,
                each=instances // writers,
                lease_ttl=lease_ttl,
                replicas=min(3, nodes),
                storage=stored,
                tombstone_ttl=tombstone_ttl,
                copies=nodes,
            )
        )
        links = dict(zip(("watchers", "writers"), proxies, strict=True))
        chaos = Chaos(
            fleet,
            seed,
            servers,
            links,
            cluster,
            states,
            storage=stored,
            tombstone_ttl=tombstone_ttl,
            slack=slack,
        )
        await chaos.run(seconds, say)
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
    parser.add_argument("--storage", choices=["memory", "file"], help="otherwise the seed chooses it")
    parser.add_argument(
        "--slack", type=float, default=1.0, help="how far to stretch the bounds of fresh readers"
    )
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
        run(
            seconds=given.seconds,
            seed=given.seed,
            instances=given.instances,
            nodes=given.nodes,
            storage=given.storage,
            slack=given.slack,
            say=say,
        )
    )


if __name__ == "__main__":
    main()
