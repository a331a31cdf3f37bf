"""What it costs while nothing happens: memory, idle processes, and the server."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from typing import Any

from . import peers, servers
from .bench import Bench
from .children import Child, MeasurementError

LEASED = ("ours", "ours_nc", "etcd", "zookeeper")

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
    """A process that holds 1,000 leased registrations, and one that watches them: CPU, and what is sent."""
    seconds = 3.0 if bench.settings.quick else 20.0
    count = 200 if bench.settings.quick else 1_000
    watching = bench.measure(f"CPU of an idle watcher of {count:,}", "% of a core")
    holding = bench.measure(f"CPU of {count:,} leased registrations, ttl 10 s, in the client", "% of a core")
    sent = bench.measure(f"stream messages to an idle watcher in {seconds:g} s", "")
    names = bench.taking_part(("ours", "ours_nc", "plain_kv", "natsio", "etcd", "zookeeper", "redis"))
    bench.say(f"{watching.name}: {', '.join(names)}")
    for name in bench.rounds(names, 1 if bench.settings.quick else min(3, bench.settings.runs)):
        try:
            with contextlib.ExitStack() as running:
                if name in LEASED:
                    space = bench.fresh_space()
                    bench.run(name, "make", space)
                    params = bench.params(name, space, count=count, seconds=seconds, settle=2.0)
                    holder = running.enter_context(Child(bench.python(name), "idle_leases", **params))
                    holder.ready()
                else:
                    space = bench.seeded(name, count)
                    params = bench.params(name, space, count=count, seconds=seconds, settle=2.0)
                watcher = running.enter_context(Child(bench.python(name), "idle_watcher", **params))
                watcher.ready()
                on_nats = peers.ALL[name].server == "nats"
                before = _delivered(bench, space) if on_nats else None
                if name in LEASED:
                    holder.go()
                watcher.go()
                time.sleep(seconds - 0.5)
                after = _delivered(bench, space) if on_nats else None
                bench.add(watching, name, watcher.result() * 100)
                if name in LEASED:
                    bench.add(holding, name, holder.result() * 100)
                if before is not None and after is not None:
                    bench.add(sent, name, after - before)
        except MeasurementError as error:
            bench.say(f"  failed: {error}")


def server(bench: Bench) -> None:
    """What 5,000 leased registrations at rest cost the server: its CPU and its messages."""
    count = 500 if bench.settings.quick else 5_000
    seconds = 5.0 if bench.settings.quick else 20.0
    cpu = bench.measure(f"server CPU, {count:,} leased registrations at rest", "% of a core")
    received = bench.measure(f"messages from clients, {count:,} leased registrations at rest", "/s")
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
                    time.sleep(seconds - 0.5)  # before the child takes its registrations back
                    elapsed = time.monotonic() - started
                    bench.add(cpu, name, (_server_cpu(running.pid) - used) / elapsed * 100)
                    if running.monitor:
                        bench.add(received, name, (_counter(running) - messages) / elapsed)
                    child.result()
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
    """Messages that the connected clients have sent."""
    return sum(int(each["in_msgs"]) for each in _ask(running, "/connz")["connections"])


def _delivered(bench: Bench, space: str) -> int | None:
    """What the consumers of a bucket have delivered; None when there is no such bucket.

    Idle heartbeats and pings are not in it: they are no messages of the stream.
    """
    accounts = _ask(bench.server("nats"), "/jsz?consumers=true")["account_details"]
    for stream in (each for account in accounts for each in account.get("stream_detail") or []):
        if stream["name"] == f"KV_{space}_v1_instances":
            consumers = stream.get("consumer_detail") or []
            return sum(int(each["delivered"]["consumer_seq"]) for each in consumers)
    return None
