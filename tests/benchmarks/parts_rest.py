"""What it costs while nothing happens: memory, idle processes, and the server."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from typing import Any

from . import servers
from .bench import Bench
from .children import Child, MeasurementError

_TICKS = os.sysconf("SC_CLK_TCK")


def memory(bench: Bench) -> None:
    """Of a process that keeps a picture of all instances."""
    size = min(10_000, max(bench.settings.sizes))
    samples = bench.measure(f"memory of a watched instance ({size:,})", "bytes")
    names = bench.taking_part(("ours", "ours_nc", "plain_kv", "natsio", "etcd", "zookeeper", "redis"))
    bench.say(f"{samples.name}: {', '.join(names)}")
    spaces = {name: bench.seeded(name, size) for name in names}
    for name in bench.rounds(names):
        result = bench.run(name, "memory", spaces[name], count=size)
        if result is not None:
            bench.add(samples, name, result)


def idle(bench: Bench) -> None:
    """The CPU of watchers and of holders of 1,000 leases, and what is sent to a watcher."""
    seconds = 3.0 if bench.settings.quick else 20.0
    size = min(1_000, max(bench.settings.sizes))
    watching = bench.measure(f"CPU of an idle watcher of {size:,}", "% of a core")
    sent = bench.measure("stream messages to an idle watcher", f"in {seconds:g} s")
    beats = bench.measure("protocol messages to an idle watcher (heartbeats, pings)", "/s")
    names = bench.taking_part(("ours", "ours_nc", "plain_kv", "natsio", "etcd", "zookeeper", "redis"))
    bench.say(f"{watching.name}: {', '.join(names)}")
    runs = 1 if bench.settings.quick else min(3, bench.settings.runs)
    for name in bench.rounds(names, runs):
        space = bench.seeded(name, size)
        try:
            with Child(
                bench.python(name),
                "idle_watcher",
                **bench.params(name, space, count=size, seconds=seconds, settle=2.0),
            ) as child:
                child.ready()
                before = _delivered(bench, space) if name.startswith("ours") else None
                child.go()
                started = time.monotonic()
                if before is not None:
                    time.sleep(max(0.0, seconds - 0.5))
                    after = _delivered(bench, space)
                    elapsed = time.monotonic() - started
                    bench.add(sent, name, after[0] - before[0])
                    bench.add(beats, name, (after[1] - before[1]) / elapsed)
                bench.add(watching, name, child.result() * 100)
        except MeasurementError as error:
            bench.say(f"  failed: {error}")

    count = 200 if bench.settings.quick else 1_000
    holding = bench.measure(f"CPU of {count:,} leased registrations, ttl 10 s, in the client", "% of a core")
    names = bench.taking_part(("ours", "ours_nc", "etcd", "zookeeper"))
    bench.say(f"{holding.name}: {', '.join(names)}")
    for name in bench.rounds(names, runs):
        space = bench.fresh_space()
        bench.run(name, "make", space)
        params = bench.params(name, space, count=count, seconds=seconds, settle=2.0)
        try:
            with Child(bench.python(name), "idle_leases", **params) as child:
                child.ready()
                child.go()
                bench.add(holding, name, child.result() * 100)
        except MeasurementError as error:
            bench.say(f"  failed: {error}")


def server(bench: Bench) -> None:
    """What 5,000 leased registrations at rest cost the server: its CPU and its messages."""
    count = 500 if bench.settings.quick else 5_000
    seconds = 5.0 if bench.settings.quick else 20.0
    cpu = bench.measure(f"server CPU, {count:,} leased registrations at rest", "% of a core")
    received = bench.measure(f"messages to the server, {count:,} leased registrations at rest", "/s")
    names = bench.taking_part(("ours", "etcd", "zookeeper"))
    bench.say(f"{cpu.name}: {', '.join(names)}")
    runs = 1 if bench.settings.quick else min(3, bench.settings.runs)
    for name in bench.rounds(names, runs):
        # A server of its own: what else was put into the shared one must not be counted.
        with servers.STARTERS[{"ours": "nats"}.get(name, name)]() as running:
            options = {"one_lease_each": True} if name == "etcd" else {}
            params = {"peer": name, "address": running.address, "space": "rest", "count": count}
            params |= {"seconds": seconds, "settle": 5.0, "options": options}
            try:
                bench_make = {"peer": name, "address": running.address, "space": "rest"}
                with Child(bench.python(name), "make", **bench_make) as child:
                    child.result()
                with Child(bench.python(name), "idle_leases", **params) as child:
                    child.ready()
                    used, started = _server_cpu(running.pid), time.monotonic()
                    messages = _counter(running) if running.monitor else 0
                    child.go()
                    child.result()
                    elapsed = time.monotonic() - started
                    bench.add(cpu, name, (_server_cpu(running.pid) - used) / elapsed * 100)
                    if running.monitor:
                        bench.add(received, name, (_counter(running) - messages) / elapsed)
            except MeasurementError as error:
                bench.say(f"  failed: {error}")


def _server_cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _ask(running: servers.Running, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(running.monitor + path, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _counter(running: servers.Running) -> int:
    return int(_ask(running, "/varz")["in_msgs"])


def _delivered(bench: Bench, space: str) -> tuple[int, int]:
    """What the consumers of a bucket have delivered, and what the server sent to its clients altogether."""
    running = bench.server("nats")
    streams = _ask(running, "/jsz?consumers=true")["account_details"][0]["stream_detail"]
    delivered = 0
    for stream in streams:
        if stream["name"] == f"KV_{space}_v1_instances":
            consumers = stream.get("consumer_detail") or []
            delivered = sum(each["delivered"]["consumer_seq"] for each in consumers)
    connections = _ask(running, "/connz?limit=1024")["connections"]
    return delivered, sum(each["out_msgs"] for each in connections)
