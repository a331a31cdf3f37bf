"""Flood a bucket with one kind of message after another: `python -m tests.fuzz.flood --seconds 60`.

The users are those that `natsdisc acl` describes. The attacker may register in the namespace `shop`, or
read it. The victim registers in `shop` too and in `bank`, and watches both. After each flood it has five
seconds to be as it was, and its registrations are never lost.

One line a kind tells how many messages were sent and refused, the longest hold of the victim's event loop,
its growth, and when it was right again after the server had worked off all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import natsdisc
from natsdisc import EndpointSpec, State, Transport, endpoints
from natsdisc.acl import Role, inbox_prefix_of, permissions
from natsdisc.entry import BUCKETS
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.admin import Admin
from tests.raw import Raw
from tests.rig import eventually

# Seconds in which everything must be right again, and megabytes that the victim may grow by in one flood.
BACK_WITHIN_S, GROWTH_MB = 5.0, 64
# Seconds in which the server must have stored what it was sent, and as many for schedules to be over.
STORED_WITHIN_S = 120.0
# Messages that are sent before the server is asked whether it has read them.
BATCH = 200
BUCKET = "v1_instances"
OURS, THEIRS = f"$KV.{BUCKET}.shop.cart.e", f"$KV.{BUCKET}.bank.pay.e.1f"
LEASE = f"$NATSDISC.LEASE.{BUCKET}.shop.cart.e"

PASSWORD = "pw"
# Users by name: their role, and the namespace that they are confined to.
USERS: dict[str, tuple[Role, str | None]] = {
    "reader": (Role.READER, "shop"),
    "registrar": (Role.REGISTRAR, "shop"),
    "shop": (Role.REGISTRAR, "shop"),
    "bank": (Role.REGISTRAR, "bank"),
    "watcher": (Role.READER, None),
}

Send = Callable[[Raw, int], None]


def _config() -> str:
    users = [f"{{ user: admin, password: {PASSWORD} }}"]
    for name, (role, namespace) in USERS.items():
        allowed = permissions(role, namespace=namespace, inbox_prefix=inbox_prefix_of(name))
        users.append(f"{{ user: {name}, password: {PASSWORD}, {allowed.as_conf()} }}")
    return f"accounts {{ A {{ jetstream: enabled, users: [\n{chr(10).join(users)}\n] }} }}"


def _raw_login(user: str) -> dict[str, str]:
    return {"user": user, "pass": PASSWORD}


def _login(user: str) -> dict[str, str]:
    return {"user": user, "password": PASSWORD, "inbox_prefix": inbox_prefix_of(user)}


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
    "values on a neighbour's key": _published(f"$KV.{BUCKET}.shop.pay.e.1f", b"{}"),
    "removals of a neighbour's key": _published(f"$KV.{BUCKET}.shop.pay.e.1f", b"", "KV-Operation: DEL"),
    "leases away from a neighbour": _published(
        f"$NATSDISC.LEASE.{BUCKET}.shop.pay.e.1f", b"", "KV-Operation: PURGE", "Nats-Rollup: sub"
    ),
    "questions to the API": _published(f"$JS.API.STREAM.INFO.KV_{BUCKET}", b"{}"),
}


def _asked(subject: str, reply: str, payload: bytes = b"{}") -> Send:
    return lambda raw, number: raw.publish(
        subject.replace("#", f"{number:x}").encode(), payload, b"", reply.encode()
    )


_CREATE = f"$JS.API.CONSUMER.CREATE.KV_{BUCKET}.#.$KV.{BUCKET}.shop.>"
READERS_FLOODS: dict[str, Send] = {
    "answers to another's key": _asked(
        f"$JS.API.CONSUMER.INFO.KV_{BUCKET}.none", f"$KV.{BUCKET}.shop.pay.e.1f"
    ),
    "answers to keys of nobody": _asked(f"$JS.API.CONSUMER.INFO.KV_{BUCKET}.none", f"{OURS}.9"),
    "consumers that say nothing": _published(_CREATE, b"rubbish"),
    "keys that it may not write": _published(f"{OURS}.8", b"{}"),
}


def _resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


async def victim(url: str) -> None:
    """Hold two registrations and watch; tell how things stand in one line of JSON for each line on stdin."""
    longest, was_lost = 0.0, False

    async def tick() -> None:
        nonlocal longest, was_lost
        while True:
            was_lost = was_lost or State.LOST in states()
            began = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - began)

    async with contextlib.AsyncExitStack() as opened:

        async def connected(user: str) -> natsdisc.Discovery:
            options: dict[str, Any] = {"lease_ttl": 5.0, "instance_id": 0x1F, **_login(user)}
            return await opened.enter_async_context(natsdisc.connect(url, **options))

        holders = [await connected(namespace) for namespace in ("bank", "shop")]
        bank, shop = [
            await holder.register(EndpointSpec(namespace, "pay", "e", transport=Transport.nats("addr")))
            for holder, namespace in zip(holders, ("bank", "shop"), strict=True)
        ]
        watcher = await connected("watcher")

        def states() -> list[State]:
            return [one.state for holder in holders for one in holder.registrations]

        async with holders[0].view(endpoints("bank")) as view, watcher.view(endpoints()) as whole:
            await view.wait_for(1, timeout=30)
            ticking = asyncio.create_task(tick())
            while await asyncio.to_thread(sys.stdin.readline):
                usage = resource.getrusage(resource.RUSAGE_SELF)
                state = {
                    "right": list(view.instances) == [bank] and view.age < BACK_WITHIN_S,
                    "whole": bank in whole and shop in whole and whole.age < BACK_WITHIN_S,
                    "active": states() == [State.ACTIVE] * 2,
                    "lost": was_lost or State.LOST in states(),
                    "held_s": longest,
                    "rss_mb": _resident_mb(),
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "breaks": sum(
                        one._store.connection_counts["breaks"]  # type: ignore[attr-defined]
                        for one in (*holders, watcher)
                    ),
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


async def worked_off(url: str) -> float:
    """Wait until the server has worked off what it was sent before; return the seconds that it took.

    The answer to a ping tells that the server has read a message. Its stream stores it later, and a schedule
    that is due writes later still: until then the attack goes on without the attacker.
    """
    question = json.dumps({"seq": 1, "next_by_subj": f"{LEASE}.>"}).encode()
    began = time.monotonic()
    async with Raw(url, **_raw_login("admin")) as raw:
        raw.publish(f"{OURS}.end".encode(), b"{}", reply=f"{raw.inbox}.end".encode())
        await eventually(lambda: raw.messages, STORED_WITHIN_S)

        async def no_schedule_left() -> bool:
            raw.messages.clear()
            return "error" in await raw.request(f"$JS.API.STREAM.MSG.GET.KV_{BUCKET}".encode(), question)

        await eventually(no_schedule_left, STORED_WITHIN_S)
    return time.monotonic() - began


async def main(seconds: float, only: str = "") -> int:
    """Run every flood whose name has `only` in it; return how many had an effect that they must not have."""
    failed = 0
    async with NatsServer(config=_config()) as server:
        async with await Admin.connect(server.url, {"user": "admin", "password": PASSWORD}) as admin:
            for bucket in BUCKETS.values():
                await admin.make(bucket)
        attacked = await Victim.start(server.url)
        before = await attacked.state()
        floods = [("registrar", *flood) for flood in FLOODS.items()]
        floods += [("reader", *flood) for flood in READERS_FLOODS.items()]
        for user, name, send in [flood for flood in floods if only in flood[1]]:
            attacker = Raw(server.url, **_raw_login(user))
            attacker.inbox = f"{inbox_prefix_of(user)}.raw"
            async with attacker as raw:
                count = await flood(raw, send, seconds)
                took_in = await worked_off(server.url)
                refused = sum("Permissions Violation" in error for error in raw.errors)
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
                f"{'FAIL' if bad else 'ok  '} {user}: {name:<34} {count:>8} sent, {refused:>8} refused; "
                f"worked off {took_in:4.1f} s later, "
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
    parser.add_argument("--only", default="", metavar="TEXT", help="floods with this in their name")
    parser.add_argument("--victim", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.victim:
        asyncio.run(victim(chosen.victim))
    else:
        sys.exit(asyncio.run(main(chosen.seconds, chosen.only)))
