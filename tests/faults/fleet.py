"""A fleet of 1,000 owners while nodes are killed: `python -m tests.faults.fleet`.

Each owner is a connection with one instance, all in one component, in several processes. Each restart is a
SIGKILL of one node, a majority or all, which start again after a second. For a minute from the kill:

    removed           how often long-lived watchers reported a live instance as Removed
    list short        seconds in which the last `list` lacked instances; list failed: in which it raised
    all back          seconds from the servers' return until `list` and every watcher showed all owners
    cpu               CPU seconds of all servers; cpu before: the same without a kill
    registered again  how often owners did; swept: entries that they swept away
    sweeps, requests  of all owners, the latter to the JetStream API, but for consumers
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from natsdisc import DiscoveryError, endpoints
from natsdisc.server import NatsServer
from tests.faults.fleet_owners import COMPONENT
from tests.faults.kit import STREAMS, Follower, Plain, opened_in
from tests.rig import Cluster, eventually

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
STARTING, RETURNING = 300.0, 120.0
WINDOW = 60.0  # seconds from the kill in which CPU and sweeps are counted
BEFORE = 10.0  # seconds before the kill in which CPU is counted
LIST_EVERY = 0.1
DOWN = 1.0
KILLED = {1: ("all",), 3: ("one", "majority", "all")}
COLUMNS = (
    *("removed", "list short", "list failed", "slowest list", "all back", "cpu", "cpu before"),
    *("registered again", "swept", "sweeps", "requests"),
)


class Owners:
    """The processes of the owners."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, urls: list[str], count: int, processes: int, storage: str, replicas: int, lease_ttl: float
    ) -> AsyncIterator[Owners]:
        """Start them, and wait until all have registered."""
        each = count // processes
        started = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.fleet_owners", str(each), str(1 + number * each)),
                *(storage, str(replicas), str(lease_ttl), *urls),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            for number in range(processes)
        ]
        try:
            owners = cls(started)
            async with asyncio.timeout(STARTING):
                await asyncio.gather(*map(owners._line, started))
            yield owners
        finally:
            for process in started:
                if process.returncode is None:
                    process.kill()
                await process.communicate()

    async def totals(self) -> Counter[str]:
        """Return the sum of what all owners count."""
        total: Counter[str] = Counter()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        for line in await asyncio.gather(*map(self._line, self._processes)):
            total.update(json.loads(line))
        return total

    @staticmethod
    async def _line(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, "a process of owners has ended"
        return line.decode()


class Lists:
    """A `list` again and again: when it was short, and when it failed."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int | None]] = []
        self.slowest = 0.0

    @contextlib.asynccontextmanager
    async def looking(self, urls: list[str]) -> AsyncIterator[Lists]:
        """List until the end of this context."""
        async with contextlib.AsyncExitStack() as opened:
            discovery = await opened_in(opened, urls)

            async def look() -> None:
                while True:
                    found: int | None = None
                    began = time.monotonic()
                    with contextlib.suppress(DiscoveryError):
                        found = len(await discovery.list(endpoints(*COMPONENT)))
                    self.samples.append((time.monotonic(), found))
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    await asyncio.sleep(LIST_EVERY)

            task = asyncio.create_task(look())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.wait((task,))

    def spent(self, since: float, until: float, wrong: Any) -> float:
        """Return for how many seconds the last answer was `wrong`, between two times."""
        times = [*self.samples, (time.monotonic(), None)]
        spans = itertools.pairwise(times)
        return sum(
            end - begin for (begin, found), (end, _) in spans if since <= begin < until and wrong(found)
        )


def _cpu(nodes: list[NatsServer]) -> float:
    """Return the CPU seconds that the running nodes have used."""
    used = 0.0
    for node in nodes:
        if node.running:
            fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


async def _count_requests(plain: Plain) -> Counter[str]:
    """Count, from now on, the marks that sweeps leave and the requests to the JetStream API."""
    asked: Counter[str] = Counter()

    async def heard(message: Msg) -> None:
        if not message.subject.startswith("$JS.API.CONSUMER"):
            asked["sweep" if message.subject.startswith("$NATSDISC") else "request"] += 1

    leases = f"$NATSDISC.LEASE.{STREAMS[0].removeprefix('KV_')}"
    for subject in (f"{leases}.sweep", f"{leases}.*.*.sweep", "$JS.API.>"):
        await plain.client.subscribe(subject, cb=heard)
    await plain.client.flush()
    return asked


async def _restart(
    servers: NatsServer | Cluster,
    nodes: list[NatsServer],
    killed: str,
    count: int,
    owners: Owners,
    urls: list[str],
) -> dict[str, float]:
    """Kill nodes, start them again, and return what was seen."""
    async with contextlib.AsyncExitStack() as opened:
        watchers = [Follower(await opened_in(opened, [url]), endpoints(*COMPONENT)) for url in (urls * 3)[:3]]
        for watcher in watchers:
            opened.push_async_callback(watcher.aclose)
        lists = await opened.enter_async_context(Lists().looking(urls))

        def complete() -> bool:
            shown = bool(lists.samples) and lists.samples[-1][1] == count
            return shown and all(len(watcher.live) == count for watcher in watchers)

        await eventually(complete, RETURNING)
        plain = await opened.enter_async_context(Plain.connected(urls))
        asked = await _count_requests(plain)
        idle, before_idle = _cpu(nodes), time.monotonic()
        await asyncio.sleep(BEFORE)
        cpu_before = (_cpu(nodes) - idle) / (time.monotonic() - before_idle) * WINDOW
        counted = await owners.totals()
        asked.clear()
        lists.slowest = 0.0

        victims = nodes[: {"one": 1, "majority": 2, "all": len(nodes)}[killed]]
        killed_at, used = time.monotonic(), _cpu([node for node in nodes if node not in victims])
        for node in victims:
            node.kill()
        await asyncio.sleep(DOWN)
        await asyncio.gather(*(asyncio.to_thread(node.restart) for node in victims))
        if isinstance(servers, Cluster):
            await servers.ready()
            await servers.leader(STREAMS[0])
        back = time.monotonic()
        wrong_until = back
        while time.monotonic() < killed_at + WINDOW or (
            not complete() and time.monotonic() < back + RETURNING
        ):
            if not complete():
                wrong_until = time.monotonic()
            await asyncio.sleep(0.05)
        until = time.monotonic()
        more = Counter(await owners.totals())
        more.subtract(counted)
        problems = [problem for watcher in watchers for problem in watcher.problems]
        assert not problems, problems[:10]
        return {
            "removed": sum(watcher.counts["removed"] for watcher in watchers),
            "list short": lists.spent(killed_at, until, lambda found: found is not None and found < count),
            "list failed": lists.spent(killed_at, until, lambda found: found is None),
            "slowest list": lists.slowest,
            "all back": wrong_until - back,
            "cpu": _cpu(nodes) - used,
            "cpu before": cpu_before,
            "registered again": more["reregistrations"],
            "swept": more["swept"],
            "sweeps": asked.pop("sweep", 0),
            "requests": asked.total(),
        }


async def run(nodes: int, storage: str, given: argparse.Namespace) -> None:
    """Start a fleet and restart its nodes in every way, a row for each."""
    async with NatsServer() if nodes == 1 else Cluster() as servers:
        all_nodes = servers.nodes if isinstance(servers, Cluster) else [servers]
        urls = [node.url for node in all_nodes]
        began = time.monotonic()
        async with Owners.running(
            urls, given.owners, given.processes, storage, nodes, given.lease_ttl
        ) as owners:
            count = given.owners // given.processes * given.processes
            print(f"# {count} owners registered after {time.monotonic() - began:.1f} s", flush=True)
            for killed in KILLED[nodes]:
                if given.killed and killed not in given.killed:
                    continue
                try:
                    seen = await _restart(servers, all_nodes, killed, count, owners, urls)
                except AssertionError as error:
                    print(f"{nodes} nodes, {storage}, kill {killed}: {error}", flush=True)
                    continue
                cells = "".join(f"{seen[name]:>17.1f}" for name in COLUMNS)
                print(f"{f'{nodes} nodes, {storage}, kill {killed}':<30}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--owners", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--lease-ttl", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, choices=[1, 3], action="append")
    parser.add_argument("--storage", choices=["memory", "file"], action="append")
    parser.add_argument("--killed", choices=["one", "majority", "all"], action="append")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    print(f"{'':<30}{''.join(f'{name:>17}' for name in COLUMNS)}")
    for nodes in given.nodes or (1, 3):
        for storage in given.storage or ("memory", "file"):
            asyncio.run(run(nodes, storage, given))


if __name__ == "__main__":
    main()
