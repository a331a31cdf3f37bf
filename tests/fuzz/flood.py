"""Flood a bucket with one kind of message after another: `python -m tests.fuzz.flood --seconds 60`.

A registration and two views live in a process of their own, in another namespace. Each flood is what
a registrar of `shop.cart` may send. After it the victim has five seconds to be as it was.
One line a kind tells how many messages were sent, the longest hold of the victim's event loop, its
growth, and when it was right again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import natsdisc
from natsdisc import EndpointSpec, State, Transport, endpoints
from natsdisc.server import NatsServer
from tests.raw import Raw

# Seconds in which everything must be right again, and megabytes that the victim may grow by in one flood.
BACK_WITHIN_S, GROWTH_MB = 5.0, 64
# Messages that are sent before the server is asked whether it has read them.
BATCH = 200
BUCKET = "v1_instances"
OURS, THEIRS = f"$KV.{BUCKET}.shop.cart.e", f"$KV.{BUCKET}.bank.pay.e.1f"
LEASE = f"$NATSDISC.LEASE.{BUCKET}.shop.cart.e"

Send = Callable[[Raw, int], None]


def _block(*lines: str) -> bytes:
    return ("NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def _published(subject: str, payload: bytes = b"", *lines: str) -> Send:
    """Return a function that sends a message; `#` in the subject becomes its number."""
    headers = _block(*lines) if lines else b""
    return lambda raw, number: raw.publish(subject.replace("#", f"{number:x}").encode(), payload, headers)


def _raw(subject: str, payload: bytes, headers: bytes) -> Send:
    return lambda raw, number: raw.publish(subject.replace("#", f"{number:x}").encode(), payload, headers)


FLOODS: dict[str, Send] = {
    "rubbish under keys of its own": _published(f"{OURS}.#", b"\xff{rubbish"),
    "one key, rubbish and 5 kB": _published(f"{OURS}.1", b"x" * 5_000),
    "keys with a vertical tab and 5 kB": _published(f"{OURS}.\x0b#", b"x" * 5_000),
    "header blocks that do not end": _raw(f"{OURS}.2", b"{}", b"NATS/1.0\r\nNats-Scheduler: x"),
    "removals of one key": _published(f"{OURS}.3", b"", "KV-Operation: DEL"),
    "names with escape sequences": _published(f"{OURS}.\x1b[2J#", b"{}"),
    "leases on another's key": _published(
        f"{LEASE}.#",
        b"",
        "Nats-Schedule: @at 2020-01-01T00:00:00Z",
        f"Nats-Schedule-Target: {THEIRS}",
        "KV-Operation: DEL",
    ),
    "forged values on another's key": _published(
        f"{LEASE}.#", b"{}", "Nats-Schedule: @at 2020-01-01T00:00:00Z", f"Nats-Schedule-Target: {THEIRS}"
    ),
    "leases that say nothing": _published(f"{LEASE}.#", b"rubbish", "Nats-Schedule: soon"),
    "questions to the API": _published(f"$JS.API.STREAM.INFO.KV_{BUCKET}", b"{}"),
}


def _resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


async def victim(url: str) -> None:
    """Hold and watch; answer each line on stdin with one line of JSON about how things stand."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - began)

    async with natsdisc.connect(url, lease_ttl=5.0, instance_id=0x1F) as discovery:
        mine = await discovery.register(EndpointSpec("bank", "pay", "e", transport=Transport.nats("addr")))
        async with discovery.view(endpoints("bank")) as view, discovery.view(endpoints()) as whole:
            await view.wait_for(1, timeout=30)
            ticking = asyncio.create_task(tick())
            while await asyncio.to_thread(sys.stdin.readline):
                usage = resource.getrusage(resource.RUSAGE_SELF)
                state = {
                    "right": list(view.instances) == [mine] and view.age < BACK_WITHIN_S,
                    "whole": mine in whole and whole.age < BACK_WITHIN_S,
                    "active": [one.state for one in discovery.registrations] == [State.ACTIVE],
                    "lost": any(one.state is State.LOST for one in discovery.registrations),
                    "held_s": longest,
                    "rss_mb": _resident_mb(),
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "breaks": discovery._store.connection_counts["breaks"],  # type: ignore[attr-defined]
                }
                longest = 0.0
                print(json.dumps(state), flush=True)
            ticking.cancel()


class Victim:
    """The process that is attacked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str) -> Victim:
        command = [sys.executable, "-m", "tests.fuzz.flood", "--victim", url]
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=null))

    async def state(self) -> dict[str, float]:
        """Return how things stand; raises TimeoutError if the process is deaf."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            return dict(json.loads(await self._process.stdout.readline()))

    async def aclose(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def flood(raw: Raw, send: Send, seconds: float) -> int:
    """Send for `seconds`; return how many messages the server has read."""
    number, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        for _ in range(BATCH):
            number += 1
            send(raw, number)
        await raw.sync()
    return number


async def main(seconds: float) -> int:
    """Run every flood; return how many had an effect that they must not have."""
    failed = 0
    async with NatsServer() as server:
        attacked = await Victim.start(server.url)
        before = await attacked.state()
        for name, send in FLOODS.items():
            async with Raw(server.url) as raw:
                count = await flood(raw, send, seconds)
            during, ended = await attacked.state(), time.monotonic()
            while True:
                after = await attacked.state()
                is_right = bool(after["right"] and after["whole"] and after["active"])
                if is_right or time.monotonic() - ended > 10 * BACK_WITHIN_S:
                    break
                await asyncio.sleep(0.1)
            took, grown = time.monotonic() - ended, after["rss_mb"] - before["rss_mb"]
            await asyncio.sleep(1)
            idle = (await attacked.state())["cpu_s"] - after["cpu_s"]
            bad = not is_right or took > BACK_WITHIN_S or grown > GROWTH_MB or idle > 0.9
            bad = bad or bool(after["lost"]) or after["breaks"] > before["breaks"]
            failed += bad
            print(
                f"{'FAIL' if bad else 'ok  '} {name:<36} {count:>8} sent; "
                f"held {during['held_s'] * 1e3:6.1f} ms, grew {grown:+4.0f} MB, "
                f"back after {took:5.2f} s, then {idle:4.0%} of a core",
                flush=True,
            )
            before = {**after}
        await attacked.aclose()
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.flood", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each flood (default: %(default)g)")
    parser.add_argument("--victim", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.victim:
        asyncio.run(victim(chosen.victim))
    else:
        sys.exit(asyncio.run(main(chosen.seconds)))
