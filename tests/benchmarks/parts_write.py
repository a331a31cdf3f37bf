"""Registering, and who hears of it: latency, throughput, events, fan-out, crashes."""

from __future__ import annotations

import contextlib

from .bench import Bench
from .children import Child, MeasurementError
from .figures import percentile

_MS = 1_000
_FIRST = 1_000
LEASED = ("ours", "ours_nc", "publish", "etcd", "zookeeper")
UNLEASED = ("ours", "ours_nc", "publish", "plain_kv", "natsio", "etcd", "zookeeper", "redis")


def register(bench: Bench) -> None:
    """One after the other, and many at once."""
    count, many = (100, 500) if bench.settings.quick else (500, 2_000)
    for leased, peers in ((True, LEASED), (False, UNLEASED)):
        lease = "with lease" if leased else "without lease"
        p50 = bench.measure(f"register {lease}, p50", "ms")
        p99 = bench.measure(f"register {lease}, p99", "ms")
        rate = bench.measure(f"register {lease}, many at once", "/s", higher_is_better=True)
        names = bench.taking_part(peers)
        bench.say(f"register {lease}: {', '.join(names)}")
        for name in bench.rounds(names):
            space = bench.fresh_space()
            bench.run(name, "make", space)
            result = bench.run(name, "register", space, leased=leased, first=_FIRST, count=count, many=many)
            if result:
                bench.add(p50, name, result["p50"] * _MS)
                bench.add(p99, name, result["p99"] * _MS)
                bench.add(rate, name, result["per_second"])


def events(bench: Bench) -> None:
    """From the call of register in one process to the event in another."""
    count = 100 if bench.settings.quick else 500
    p50 = bench.measure("event latency, p50", "ms")
    p99 = bench.measure("event latency, p99", "ms")
    names = bench.taking_part(("ours", "ours_nc", "plain_kv", "natsio", "etcd", "zookeeper", "redis"))
    bench.say(f"event latency: {', '.join(names)}")
    for name in bench.rounds(names):
        leased = name in LEASED
        space = bench.fresh_space()
        bench.run(name, "make", space)
        params = bench.params(name, space, first=_FIRST, count=count, watchers=1, pace=0.005, leased=leased)
        try:
            with (
                Child(bench.python(name), "event_watcher", **params) as watcher,
                Child(bench.python(name), "event_writer", **params) as writer,
            ):
                watcher.ready()
                writer.ready()
                writer.go()
                started = writer.result()["started"]
                seen = watcher.result()
                writer.go()
        except MeasurementError as error:
            bench.say(f"  failed: {error}")
            continue
        latencies = [seen[name] - began for name, began in started.items()]
        bench.add(p50, name, percentile(latencies, 0.5) * _MS)
        bench.add(p99, name, percentile(latencies, 0.99) * _MS)


def fanout(bench: Bench) -> None:
    """One writer, 200 watchers in two processes: until the last watcher has seen the last change."""
    watchers, changes = (20, 200) if bench.settings.quick else (200, 1_000)
    samples = bench.measure(f"fan-out of {changes:,} changes to {watchers} watchers", "ms")
    names = bench.taking_part(("ours", "ours_nc", "ours_apart", "plain_kv", "natsio", "etcd", "redis"))
    bench.say(f"{samples.name}: {', '.join(names)}")
    for name in bench.rounds(names, min(3, bench.settings.runs)):
        space = bench.fresh_space()
        bench.run(name, "make", space)
        params = bench.params(
            name, space, first=_FIRST, count=changes, watchers=watchers // 2, pace=0, leased=False
        )
        try:
            with contextlib.ExitStack() as running:
                python = bench.python(name)
                watching = [running.enter_context(Child(python, "event_watcher", **params)) for _ in range(2)]
                writer = running.enter_context(Child(python, "event_writer", **params))
                for child in (*watching, writer):
                    child.ready()
                writer.go()
                began = writer.result()["began"]
                last = max(max(child.result().values()) for child in watching)
                writer.go()
        except MeasurementError as error:
            bench.say(f"  failed: {error}")
            continue
        bench.add(samples, name, (last - began) * _MS)


def crash(bench: Bench) -> None:
    """A process is killed right after it registered: how long after the ttl (and our grace) that is told."""
    ttl, grace = 3.0, 1.0
    samples = bench.measure(f"crash told after ttl {ttl:g} s (ours: and {grace:g} s grace)", "ms")
    names = bench.taking_part(("ours", "ours_nc", "etcd", "zookeeper"))
    bench.say(f"{samples.name}: {', '.join(names)}")
    for _ in range(bench.settings.runs):
        # They mostly wait: all at the same time.
        with contextlib.ExitStack() as running:
            sent, watching = {}, {}
            for name in names:
                space = bench.fresh_space()
                bench.run(name, "make", space)
                options = {"lease_ttl": ttl}
                params = bench.params(name, space, first=_FIRST, options=options)
                try:
                    watcher = running.enter_context(Child(bench.python(name), "crash_watcher", **params))
                    watcher.ready()
                    holder = running.enter_context(Child(bench.python(name), "crash_holder", **params))
                    sent[name] = holder.ready()["sent"]
                    holder.kill()
                    watching[name] = watcher
                except MeasurementError as error:
                    bench.say(f"  failed: {error}")
            for name, watcher in watching.items():
                try:
                    after = watcher.result() - sent[name] - ttl - (grace if name.startswith("ours") else 0.0)
                    bench.add(samples, name, after * _MS)
                except MeasurementError as error:
                    bench.say(f"  failed: {error}")
