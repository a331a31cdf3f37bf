"""An application that takes its time with each event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import nats
import pytest

import natsdisc
from natsdisc import endpoints
from natsdisc.server import NatsServer
from tests.rig import LONG, eventually

from .kit import Follower, Plain, foreign

KEYS = 50
UPDATES = 50_000 if LONG else 5_000
CATCHING_UP = 120.0 if LONG else 30.0
# What is on its way to a reader is bounded by the server's flow control: it begins with 2 MiB a consumer,
# and goes up to 32 MiB only for readers that keep up.
ON_THE_WAY = 2 * 1024 * 1024
SYSTEM = "accounts { $SYS { users: [ { user: sys, password: sys } ] } }"


@contextlib.asynccontextmanager
async def made_by_us(url: str) -> AsyncIterator[natsdisc.Discovery]:
    async with natsdisc.connect(url) as discovery:
        yield discovery


@contextlib.asynccontextmanager
async def made_by_the_user(url: str) -> AsyncIterator[natsdisc.Discovery]:
    client = await nats.connect(url)
    async with natsdisc.Discovery(natsdisc.JetStreamStore(client)) as discovery:
        yield discovery
    await client.close()


class Buffers:
    """The most that was ever held for the reader, between the socket and the application."""

    def __init__(self, follower: Follower) -> None:
        self.changes: int = 0
        self.messages: int = 0
        self.bytes: int = 0
        self._follower = follower
        self._client = follower.discovery._store._requester.connection  # type: ignore[attr-defined]

    def look(self) -> None:
        self.changes = max(self.changes, len(self._follower.watch._queue._pending))
        subscriptions = list(self._client._subs.values())
        messages = (int(sub._pending_queue.qsize()) for sub in subscriptions)
        sizes = (int(sub._pending_size) for sub in subscriptions)
        self.messages = max(self.messages, *messages)
        self.bytes = max(self.bytes, len(self._client._ps.buf), *sizes)


async def update_all(url: str) -> None:
    """From a thread of its own, whom nothing slows down here."""
    async with Plain.connected(url) as plain:
        for update in range(0, UPDATES, KEYS):
            await asyncio.gather(*(plain.put(foreign(at, f"address{update}")) for at in range(KEYS)))


@pytest.mark.parametrize("connection", [made_by_us, made_by_the_user])
@pytest.mark.parametrize("blocking", [False, True], ids=["awaiting", "blocking the loop"])
async def test_a_slow_application_loses_nothing(
    blocking: bool,
    connection: Callable[[str], contextlib.AbstractAsyncContextManager[natsdisc.Discovery]],
) -> None:
    def slow() -> None:
        buffers.look()
        if blocking:
            time.sleep(0.001)  # the fault

    async with (
        NatsServer(config=SYSTEM) as server,
        Plain.connected(server.url) as plain,
        Plain.connected(server.url, user="sys", password="sys") as system,
        connection(server.url) as discovery,
    ):
        await plain.make_buckets()
        follower = Follower(discovery, endpoints(), each=slow, pause=0.0 if blocking else 0.001)  # the fault
        buffers = Buffers(follower)
        await follower.watch.synced()
        await asyncio.to_thread(asyncio.run, update_all(server.url))
        last = {foreign(at).id: foreign(at, f"address{UPDATES - KEYS}") for at in range(KEYS)}
        done = time.monotonic()
        await eventually(lambda: follower.live == last, CATCHING_UP)
        print(
            f"slow application: converged {time.monotonic() - done:.2f} s after the last of {UPDATES}, "
            f"{follower.counts.total()} events; held at most {buffers.changes} changes, "
            f"{buffers.messages} messages, {buffers.bytes} bytes"
        )
        assert buffers.changes <= KEYS
        assert buffers.bytes <= ON_THE_WAY
        assert not follower.problems
        assert {instance.id: instance for instance in await discovery.list(endpoints())} == last
        # The connection was kept, and what else goes over it was not hurt.
        assert discovery._store._requester.breaks == 0  # type: ignore[attr-defined]
        answer = await system.client.request("$SYS.REQ.SERVER.PING.STATSZ", timeout=5)
        assert json.loads(answer.data)["statsz"]["slow_consumers"] == 0
        assert discovery.stats().resyncs == {}
        await follower.aclose()
