"""Reading: cold sync, list, what 100,000 cost the event loop, and resync."""

from __future__ import annotations

import asyncio
import json
import statistics
from typing import Any

import nats

from . import children, servers
from .bench import SMALL, Bench, Samples
from .children import Child

READERS = ("ours", "ours_nc", "floor", "plain_kv", "natsio", "etcd", "zookeeper", "redis")
LISTERS = ("ours", "ours_nc", "floor", "plain_kv", "plain_keys", "natsio", "etcd", "zookeeper", "redis")
_MS = 1_000
_LARGE = 100_000
_RUNS_OF_LARGE = 3  # the slowest peers take half a minute


def cold_sync(bench: Bench) -> None:
    """Connect to last Added."""
    for size in bench.settings.sizes:
        samples = bench.measure(f"cold sync of {size:,}", "ms")
        _each(bench, "cold_sync", samples, bench.taking_part(READERS), size)


def listing(bench: Bench) -> None:
    """`list` on a connection that is there."""
    for size in bench.settings.sizes:
        samples = bench.measure(f"list of {size:,}", "ms")
        names = bench.taking_part(LISTERS)
        if size > 10_000 and "plain_keys" in names:
            names.remove("plain_keys")
        _each(bench, "list", samples, names, size)


def floor(bench: Bench) -> None:
    """Only ours and the raw socket, 10,000 instances."""
    size = min(10_000, max(bench.settings.sizes))
    samples = bench.measure(f"cold sync of {size:,}", "ms")
    if samples.by_peer:
        return  # `cold_sync` has measured it
    _each(bench, "cold_sync", samples, bench.taking_part(("ours", "ours_nc", "floor")), size)


def _each(bench: Bench, action: str, samples: Samples, names: list[str], size: int) -> None:
    bench.say(f"{samples.name}: {', '.join(names)}")
    spaces = {name: bench.seeded(name, size) for name in names}
    small = {name: bench.seeded(name, SMALL) for name in names}
    # What a busy machine does not stretch.
    cpu = bench.measure(f"client CPU of that sync of {size:,}", "ms") if action == "cold_sync" else None
    repeats = 20 if size <= SMALL else 5 if size <= 1_000 else 1
    runs = min(bench.settings.runs, _RUNS_OF_LARGE) if size >= _LARGE else bench.settings.runs
    for name in bench.rounds(names, runs):
        result = bench.run(
            name, action, spaces[name], count=size, small=small[name], small_count=SMALL, repeats=repeats
        )
        if result:
            bench.add(samples, name, statistics.median(result["seconds"]) * _MS)
            if cpu is not None:
                bench.add(cpu, name, statistics.median(result["cpu"]) * _MS)


def blocking(bench: Bench) -> None:
    """The longest time in which the event loop did nothing else."""
    size = max(bench.settings.sizes)
    samples = bench.measure(f"event loop blocked while {size:,} sync", "ms")
    cpu = bench.measure(f"most CPU in one go while {size:,} sync", "ms")
    names = bench.taking_part(("ours", "ours_nc", "plain_kv", "etcd", "redis"))
    bench.say(f"{samples.name}: {', '.join(names)}")
    spaces = {name: bench.seeded(name, size) for name in names}
    for name in bench.rounds(names, min(bench.settings.runs, _RUNS_OF_LARGE)):
        result = bench.run(name, "blocking", spaces[name], count=size)
        if result is not None:
            bench.add(samples, name, result["seconds"] * _MS)
            bench.add(cpu, name, result["cpu"] * _MS)


def resync(bench: Bench) -> None:
    """CPU time of a new look at the registry after a cut connection, beside that of a cold sync."""
    size = min(10_000, max(bench.settings.sizes))
    names = bench.taking_part(("ours", "ours_nc"))
    cold = bench.measure(f"client CPU of a first sync of {size:,}", "ms")
    again = bench.measure(f"client CPU of a resync of {size:,}, nothing changed", "ms")
    events = bench.measure("events of that resync", "")
    bench.say(again.name)
    cuts = 1 if bench.settings.quick else 2
    for name in bench.rounds(names):
        space = bench.seeded(name, size)
        server = bench.server("nats")
        params = bench.params(name, space, count=size, repeats=cuts)
        try:
            with Child(bench.python(name), "resync", **params) as child:
                for _ in range(cuts):
                    child.ready()
                    asyncio.run(_cut(server))
                    child.go()
                result = child.result()
        except children.MeasurementError as error:
            bench.say(f"  failed: {error}")
            continue
        bench.add(cold, name, result["cold"] * _MS)
        bench.add(again, name, statistics.median(result["resync"]) * _MS)
        bench.add(events, name, result["events"])


async def _cut(server: servers.Running) -> None:
    """Let the server close every client's connection but our own."""
    nc = await nats.connect(server.address, **servers.SYSTEM_USER)
    try:
        answer = await nc.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout=5)
        reply: dict[str, Any] = json.loads(answer.data)
        for connection in reply["data"]["connections"]:
            if connection["cid"] != nc.client_id:
                order = json.dumps({"cid": connection["cid"]}).encode()
                await nc.request(f"$SYS.REQ.SERVER.{reply['server']['id']}.KICK", order, timeout=5)
    finally:
        await nc.close()
