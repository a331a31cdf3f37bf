"""What registrations and watchers cost a nats-server: `python -m tests.benchmarks.sizing`.

Starts a server (or a cluster of three), registers, watches and changes, and prints what the server's own
counters and the client's socket say, for one renewal, one change and one idle watcher. `docs/operations.md`
has the formulas. Linux only: the CPU time of a process comes from /proc, bytes on the wire from the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import natsdisc
from natsdisc import Discovery, EndpointInstance, EndpointSpec, Transport, Watch, endpoints
from natsdisc.server import NatsServer
from tests.rig import Cluster

STREAM = "KV_v1_instances"
DELIVERIES = 1000  # a second, which one client process with all the watchers can take
SETTLING = 3.0  # seconds at most, so that what a phase begins with is not counted in it
TCP_INFO_BYTES = 120  # where bytes acked and received lie in struct tcp_info (linux/tcp.h)
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """What was counted up to one moment."""

    time: float
    cpu: float
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    wire_sent: int
    wire_received: int
    heartbeats: int
    memory: int
    stored: int
    disk: int

    def since(self, before: Reading) -> Reading:
        return Reading(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


class Rig:
    """The servers, and the clients whose sockets are counted."""

    def __init__(self, nodes: Sequence[NatsServer], monitors: Sequence[int]) -> None:
        self.nodes = nodes
        self.monitors = monitors
        self.clients: list[Discovery] = []

    async def reading(self) -> Reading:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Reading:
        varz = [_get(port, "varz") for port in self.monitors]
        wire = [_wire(client) for client in self.clients]
        streams = [_stream(port) for port in self.monitors]
        return Reading(
            time=time.monotonic(),
            cpu=sum(_cpu(node.pid) for node in self.nodes),
            in_msgs=sum(v["in_msgs"] for v in varz),
            in_bytes=sum(v["in_bytes"] for v in varz),
            out_msgs=sum(v["out_msgs"] for v in varz),
            out_bytes=sum(v["out_bytes"] for v in varz),
            wire_sent=sum(sent for sent, _ in wire),
            wire_received=sum(received for _, received in wire),
            heartbeats=sum(client.stats().heartbeats for client in self.clients),
            memory=sum(v["mem"] for v in varz),
            stored=max((stream["bytes"] for stream in streams if stream), default=0),
            disk=sum(_disk(node.store_dir) for node in self.nodes),
        )


def _get(port: int, what: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=10) as answer:
        return json.load(answer)


def _stream(port: int) -> Any:
    accounts = _get(port, "jsz?streams=1").get("account_details") or []
    details = [stream for account in accounts for stream in account.get("stream_detail") or []]
    return next((stream["state"] for stream in details if stream["name"] == STREAM), None)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _disk(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _wire(client: Discovery) -> tuple[int, int]:
    store: Any = client._store
    sock = store._nc._transport._io_writer.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent, received = struct.unpack_from("<QQ", info, TCP_INFO_BYTES)
    return int(sent), int(received)


async def _window(rig: Rig, seconds: float) -> Reading:
    await asyncio.sleep(min(SETTLING, seconds))
    before = await rig.reading()
    await asyncio.sleep(seconds)
    return (await rig.reading()).since(before)


def _spec(number: int) -> EndpointSpec:
    return EndpointSpec("shop", "cart", f"checkout{number}", transport=Transport.nats("shop.cart.checkout"))


async def _follow(watch: Watch) -> None:
    async for _ in watch:
        pass


def _rate(name: str, delta: Reading, per: float, unit: str) -> None:
    print(
        f"{name}, each {unit}: in {delta.in_msgs / per:.2f} messages {delta.in_bytes / per:.0f} B, "
        f"out {delta.out_msgs / per:.2f} messages {delta.out_bytes / per:.0f} B, on the wire "
        f"{delta.wire_sent / per:.0f} B sent {delta.wire_received / per:.0f} B received, "
        f"server CPU {delta.cpu / per * 1e6:.0f} us ({delta.cpu / delta.time * 100:.1f} % of a core)"
    )


async def _measure(rig: Rig, urls: list[str], options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ttl, seconds = options.ttl, options.seconds

        async def connected() -> Discovery:
            client = await stack.enter_async_context(
                natsdisc.connect(urls, lease_ttl=ttl, replicas=options.replicas, storage=options.storage)
            )
            rig.clients.append(client)
            return client

        owners = [await connected() for _ in range(options.processes)]
        each = options.registrations // options.processes
        total = each * options.processes
        await owners[0].unregister(await owners[0].register(_spec(0)))
        idle = await _window(rig, seconds)
        print(f"connections only: in {idle.in_msgs / seconds:.1f}/s, out {idle.out_msgs / seconds:.1f}/s")

        empty = await rig.reading()
        instances: list[EndpointInstance] = []
        began = time.monotonic()
        for owner in owners:
            instances += await asyncio.gather(*(owner.register(_spec(number)) for number in range(each)))
        took = time.monotonic() - began
        full = (await rig.reading()).since(empty)
        print(f"{total} registrations in {took:.1f} s, {total / took:.0f}/s")
        print(
            f"stored, each registration: stream {full.stored / total:.0f} B, disk {full.disk / total:.0f} B, "
            f"server memory {full.memory / total:.0f} B"
        )

        own = time.process_time()
        renewing = await _window(rig, seconds)
        renewals = renewing.heartbeats
        if not renewals:
            raise SystemExit(f"no renewal within {seconds:g} s: shorten --ttl, or measure for more --seconds")
        own = (time.process_time() - own) * seconds / (seconds + min(SETTLING, seconds))
        print(
            f"renewals: {renewals / renewing.time:.1f}/s, 3.24 N / ttl is {3.24 * total / ttl:.1f}/s, "
            f"client CPU {own / renewals * 1e6:.0f} us each"
        )
        _rate("renewal", renewing, renewals, "renewal")
        if not options.watchers:
            return

        before = await rig.reading()
        watches = [
            await stack.enter_async_context((await connected()).list_and_watch(endpoints()))
            for _ in range(options.watchers)
        ]
        for watch in watches:
            await asyncio.wait_for(watch.synced(), 60)
        tasks = [asyncio.create_task(_follow(watch)) for watch in watches]
        watching = (await rig.reading()).since(before)
        print(
            f"snapshot of {total}, each entry: {watching.out_bytes / len(watches) / total:.0f} B, "
            f"on the wire {watching.wire_received / len(watches) / total:.0f} B, server CPU "
            f"{watching.cpu / len(watches) / total * 1e6:.1f} us"
        )
        quiet = await _window(rig, seconds)
        grown = (await rig.reading()).since(before).memory
        print(f"server memory {grown / len(watches) / 1024:.0f} KiB a watcher with its connection")
        per = len(watches) * quiet.time
        idle = _less(quiet, renewing, quiet.heartbeats / renewals)
        _rate("idle watcher (renewals of everybody taken off)", idle, per, "watcher a second")

        before = await rig.reading()
        began = time.monotonic()
        changes = 0
        while time.monotonic() - began < seconds:
            owner = owners[changes % len(owners)]
            instance = instances[(changes % len(owners)) * each + changes // len(owners) % each]
            await owner.update(instance, metadata={"load": changes})
            changes += 1
            await asyncio.sleep(len(watches) / DELIVERIES)
        changing = (await rig.reading()).since(before)
        print(f"changes: {changes / changing.time:.1f}/s to {len(watches)} watchers")
        rest = _less(changing, renewing, changing.heartbeats / renewals)
        rest = _less(rest, idle, rest.time / idle.time)
        _rate("change", rest, changes * len(watches), "change and watcher")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _less(reading: Reading, base: Reading, share: float) -> Reading:
    """What is left of a window beyond a `share` of what is known to happen anyway."""
    values = {
        name: getattr(reading, name) - share * getattr(base, name) for name in Reading.__dataclass_fields__
    }
    return Reading(**{**values, "time": reading.time})


async def _main(options: argparse.Namespace) -> None:
    size = 3 if options.replicas > 1 else 1
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(size)]
        monitors = [sock.getsockname()[1] for sock in sockets]
    if size == 1:
        async with NatsServer(config=f'http: "127.0.0.1:{monitors[0]}"') as server:
            await _measure(Rig([server], monitors), [server.url], options)
        return
    cluster = Cluster()
    for node, port in zip(cluster.nodes, monitors, strict=True):
        node._config = f'{node._config}\nhttp: "127.0.0.1:{port}"'
    async with cluster:
        await _measure(Rig(cluster.nodes, monitors), cluster.urls, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registrations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=20, help="connections that hold them")
    parser.add_argument("--watchers", type=int, default=50)
    parser.add_argument("--ttl", type=float, default=10.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each phase is measured")
    parser.add_argument("--replicas", type=int, default=1, choices=(1, 3))
    parser.add_argument("--storage", default="file", choices=("file", "memory"))
    asyncio.run(_main(parser.parse_args()))
