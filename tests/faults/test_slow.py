"""An application that takes its time with each event."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

import natsdisc
from natsdisc import endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually

from .kit import DEADLINE, Follower, Plain, foreign

KEYS = 50
UPDATES = 5_000
SYSTEM = "accounts { $SYS { users: [ { user: sys, password: sys } ] } }"


@pytest.mark.parametrize("blocking", [False, True], ids=["awaiting", "blocking the loop"])
async def test_a_slow_application_loses_nothing(blocking: bool) -> None:
    most = 0

    def slow() -> None:
        nonlocal most
        most = max(most, len(follower.watch._inbox._backlog))
        if blocking:
            time.sleep(0.001)  # the fault

    async with (
        NatsServer(config=SYSTEM) as server,
        Plain.connected(server.url) as plain,
        Plain.connected(server.url, user="sys", password="sys") as system,
        natsdisc.connect(server.url) as discovery,
    ):
        await plain.make_buckets()
        follower = (
            SlowFollower(discovery, slow) if not blocking else Follower(discovery, endpoints(), each=slow)
        )
        await follower.watch.synced()
        for update in range(0, UPDATES, KEYS):
            await asyncio.gather(*(plain.put(foreign(at, f"address{update}")) for at in range(KEYS)))
        last = {foreign(at).id: foreign(at, f"address{UPDATES - KEYS}") for at in range(KEYS)}
        done = time.monotonic()
        await eventually(lambda: follower.live == last, DEADLINE)
        print(f"slow application: converged {time.monotonic() - done:.2f} s after the last update")
        assert most <= KEYS
        assert not follower.problems
        assert {instance.id: instance for instance in await discovery.list(endpoints())} == last
        # The connection was kept, and what else goes over it was not hurt.
        assert discovery._store._link.breaks == 0  # type: ignore[attr-defined]
        answer = await system.client.request("$SYS.REQ.SERVER.PING.STATSZ", timeout=5)
        assert json.loads(answer.data)["statsz"]["slow_consumers"] == 0
        assert discovery.stats().resyncs == {}
        await follower.aclose()


class SlowFollower(Follower):
    """One that sleeps after each event and lets others work meanwhile."""

    def __init__(self, discovery: natsdisc.Discovery, each: Callable[[], object]) -> None:
        super().__init__(discovery, endpoints(), each=each)

    async def _run(self) -> None:
        async for event in self.watch:
            self._take(event)
            if self._each is not None:
                self._each()
            await asyncio.sleep(0.001)  # the fault
        self.outcome = "closed"
