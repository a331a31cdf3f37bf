"""One measurement in a process of its own: `python -m tests.benchmarks.child '{"action": …}'`.

It says `{"ready": …}` when its partner may begin, goes on when it is told to, and ends with a result.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from . import data, peers
from .figures import percentile
from .peers.base import Peer

Params = dict[str, Any]
_WARM_UP = 20
_TICK = 0.001
_PATIENCE = 120.0


def say(kind: str, content: object) -> None:
    sys.stdout.write(json.dumps({kind: content}) + "\n")
    sys.stdout.flush()


async def told_to_go() -> None:
    await asyncio.to_thread(sys.stdin.readline)


def peer_for(params: Params, space: str | None = None) -> Peer:
    options = params.get("options", {})
    return peers.make(params["peer"], params["address"], space or params["space"], **options)


@contextlib.asynccontextmanager
async def connected(params: Params) -> Any:
    peer = peer_for(params)
    await peer.connect()
    try:
        yield peer
    finally:
        await peer.close()


async def seed(params: Params) -> Any:
    async with connected(params) as peer:
        await peer.seed(params["count"])


async def make(params: Params) -> Any:
    async with connected(params) as peer:
        await peer.make()


async def cold_sync(params: Params) -> Any:
    """Seconds, and CPU seconds, from before the connection to the last instance, with a new client each."""
    count, seconds, cpu = params["count"], [], []
    for space, size in ((params["small"], params["small_count"]), (params["space"], count)):
        peer = peer_for(params, space)
        await peer.connect()
        await peer.prepare(size)
        if size != count or count == params["small_count"]:
            await peer.sync(size)  # what is imported and compiled on first use is not what is measured
        await peer.close()
    for _ in range(params["repeats"]):
        gc.collect()
        peer = peer_for(params)
        used, started = used_cpu(), time.perf_counter()
        await peer.connect()
        seconds.append(await peer.sync(count) - started)
        cpu.append(used_cpu() - used)
        await peer.close()
    return {"seconds": seconds, "cpu": cpu}


async def list_(params: Params) -> Any:
    seconds = []
    async with connected(params) as peer:
        await peer.prepare(params["count"])
        await peer.list()
        for _ in range(params["repeats"]):
            gc.collect()
            started = time.perf_counter()
            await peer.list()
            seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


async def blocking(params: Params) -> Any:
    """The longest time that nothing else could run while a sync was going on, and the most CPU in one go."""
    longest = longest_cpu = 0.0

    async def ticker() -> None:
        nonlocal longest, longest_cpu
        last, last_cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(_TICK)
            now, now_cpu = time.perf_counter(), time.thread_time()
            longest, longest_cpu = max(longest, now - last - _TICK), max(longest_cpu, now_cpu - last_cpu)
            last, last_cpu = now, now_cpu

    async with connected(params) as peer:
        ticking = asyncio.create_task(ticker())
        await asyncio.sleep(0.1)
        longest = longest_cpu = 0.0
        await peer.sync(params["count"])
        await asyncio.sleep(2 * _TICK)
        ticking.cancel()
    return {"seconds": longest, "cpu": longest_cpu}


async def register(params: Params) -> Any:
    """Latency one after the other, then how many a second with many at once."""
    leased, count, many = params["leased"], params["count"], params["many"]
    async with connected(params) as peer:
        numbers = iter(range(params["first"], params["first"] + _WARM_UP + count + many + 1))
        for _ in range(_WARM_UP):
            await peer.put(next(numbers), leased=leased)
        latencies = []
        for _ in range(count):
            started = time.perf_counter()
            await peer.put(next(numbers), leased=leased)
            latencies.append(time.perf_counter() - started)
        gc.collect()
        last = [next(numbers) for _ in range(many)]
        started = time.perf_counter()
        await peer.put_many(last, leased=leased)
        elapsed = time.perf_counter() - started
    return {
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "per_second": many / elapsed,
    }


async def event_watcher(params: Params) -> Any:
    """When (monotonic, which all processes share) each instance was seen; `watchers` times over."""
    total = params["count"] * params["watchers"]
    seen: dict[str, float] = {}
    left, done, loop = total, asyncio.Event(), asyncio.get_running_loop()

    def note(name: str) -> None:
        nonlocal left
        if name in expected:
            left -= 1
            if params["watchers"] == 1 or not left:
                seen[name] = time.monotonic()
            if not left:
                loop.call_soon_threadsafe(done.set)

    expected = {data.registered(n) for n in range(params["first"], params["first"] + params["count"])}
    async with connected(params) as peer:
        for _ in range(params["watchers"]):
            await peer.follow(note, lambda name: None)
        await asyncio.sleep(0.2)
        say("ready", None)
        async with asyncio.timeout(_PATIENCE):
            await done.wait()
        say("result", seen)
    return None


async def event_writer(params: Params) -> Any:
    """When (monotonic) each instance began to be registered; paced, or as fast as it goes."""
    numbers = range(params["first"], params["first"] + params["count"])
    started = {}
    async with connected(params) as peer:
        if params["pace"]:
            # What a first registration costs once (the bucket, the lease) is not an event's latency.
            await peer.put(params["first"] + params["count"], leased=params["leased"])
        say("ready", None)
        await told_to_go()
        began = time.monotonic()
        if params["pace"]:
            for number in numbers:
                await asyncio.sleep(params["pace"])
                started[data.registered(number)] = time.monotonic()
                await peer.put(number, leased=params["leased"])
        else:
            await peer.put_many(numbers, leased=params["leased"])
        say("result", {"began": began, "started": started})
        await told_to_go()  # who leaves takes its registrations along: not before they were seen
    return None


async def crash_holder(params: Params) -> Any:
    """Register under a lease, say when, and wait to be killed."""
    async with connected(params) as peer:
        sent = time.monotonic()
        await peer.put(params["first"], leased=True)
        say("ready", {"sent": sent, "answered": time.monotonic()})
        await asyncio.sleep(_PATIENCE)


async def crash_watcher(params: Params) -> Any:
    gone_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    loop, name = asyncio.get_running_loop(), data.registered(params["first"])

    def tell(when: float) -> None:
        if not gone_at.done():
            gone_at.set_result(when)

    def gone(what: str) -> None:
        if what == name:
            loop.call_soon_threadsafe(tell, time.monotonic())

    async with connected(params) as peer:
        await peer.follow(lambda name: None, gone)
        say("ready", None)
        async with asyncio.timeout(_PATIENCE):
            return await gone_at


async def memory(params: Params) -> Any:
    """Bytes that the process grew by, for each instance in the picture it keeps."""
    async with connected(params) as peer:
        gc.collect()
        before = resident()
        await peer.hold(params["count"])
        gc.collect()
        return (resident() - before) / params["count"]


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def used_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def idle_watcher(params: Params) -> Any:
    async with connected(params) as peer:
        await peer.hold(params["count"])
        return await _rest(params)


async def idle_leases(params: Params) -> Any:
    async with connected(params) as peer:
        await peer.put_many(range(params["count"]), leased=True)
        alive = asyncio.create_task(peer.keep_alive())
        try:
            return await _rest(params)
        finally:
            alive.cancel()


async def _rest(params: Params) -> Any:
    """The share of one core that this process uses while nothing happens."""
    await asyncio.sleep(params["settle"])
    gc.collect()
    say("ready", None)
    await told_to_go()
    cpu, started = used_cpu(), time.monotonic()
    await asyncio.sleep(params["seconds"])
    return (used_cpu() - cpu) / (time.monotonic() - started)


async def resync(params: Params) -> Any:
    """CPU seconds of a cold sync, and of what follows when the server has cut the connection."""
    count, events = params["count"], 0
    cold = used_cpu()
    peer: Any = peer_for(params)
    await peer.connect()
    await peer.hold(count)
    cold = used_cpu() - cold

    def note(event: object) -> None:
        nonlocal events
        events += 1

    peer.view.subscribe(note)
    await asyncio.sleep(1.0)
    costs = []
    for _ in range(params["repeats"]):
        gc.collect()
        before = sum(peer.discovery.stats().resyncs.values())
        say("ready", None)
        await told_to_go()  # it is cut now
        cpu, cut_at = used_cpu(), time.monotonic()
        async with asyncio.timeout(30):
            while (  # noqa: ASYNC110 - no event tells that a picture was confirmed
                sum(peer.discovery.stats().resyncs.values()) == before
                or peer.view.age > time.monotonic() - cut_at - 0.05
            ):
                await asyncio.sleep(0.02)
        costs.append(used_cpu() - cpu)
        await asyncio.sleep(1.2)  # a difference would be told after the grace
    await peer.close()
    return {"cold": cold, "resync": costs, "events": events}


ACTIONS: dict[str, Callable[[Params], Coroutine[Any, Any, Any]]] = {
    action.__name__.rstrip("_"): action
    for action in (
        seed,
        make,
        cold_sync,
        list_,
        blocking,
        register,
        event_watcher,
        event_writer,
        crash_holder,
        crash_watcher,
        memory,
        idle_watcher,
        idle_leases,
        resync,
    )
}


def main() -> None:
    params = json.loads(sys.argv[1])
    result = asyncio.run(ACTIONS[params["action"]](params))
    if result is not None or params["action"] in ("seed", "make"):
        say("result", result)


if __name__ == "__main__":
    main()
