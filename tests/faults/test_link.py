"""The link between the watchers and the server is cut, stalls, is slow, or dies without a word."""

from __future__ import annotations

import asyncio
import logging
import time

import nats
import pytest

import natsdisc
from natsdisc import endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually

from .kit import DEADLINE, Fleet, Follower, Plain, foreign
from .proxy import Direction, Proxy

STALLED = 8.0  # two pings of a connection of ours, and longer than the 3 s of silence that make a watch stale


async def test_a_link_that_is_cut() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url) as fleet,
    ):
        async with fleet.churning():
            proxy.cut()
            await asyncio.sleep(1)  # the fault
            await proxy.heal()
            healed = time.monotonic()
        await fleet.converged("link cut for 1 s", healed)


@pytest.mark.parametrize("direction", [Direction.BOTH, Direction.TO_CLIENT], ids=["both ways", "one way"])
async def test_a_link_that_stalls(direction: Direction) -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url) as fleet,
    ):
        async with fleet.churning():
            proxy.stall(direction)
            await asyncio.sleep(STALLED)  # the fault
            await proxy.heal()
            healed = time.monotonic()
        await fleet.converged(f"link stalled for {STALLED:g} s ({direction.name})", healed)


async def test_a_link_that_is_slow() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url) as fleet,
    ):
        proxy.delay(0.3)
        async with fleet.churning():
            await asyncio.sleep(1)  # the fault
        await fleet.converged("link 0.3 s slow each way, and still slow", time.monotonic())
        assert not fleet.resyncs(), "slow is not lost"


async def test_a_way_that_takes_longer_than_a_renewal_usually_waits() -> None:
    """An answer that comes later than at first expected is waited for, and what was lost is made again."""
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Plain.connected(server.url) as plain,
        natsdisc.connect(proxy.url, lease_ttl=6) as discovery,
        asyncio.timeout(DEADLINE),
    ):
        mine = await discovery.register(far_away())
        proxy.delay(0.4)
        [registration] = discovery.registrations
        confirmed = discovery.stats().renewals.count
        await eventually(lambda: discovery.stats().renewals.count >= confirmed + 2, DEADLINE)
        assert discovery.stats().renewals.longest > 0.5
        assert registration.state is natsdisc.State.ACTIVE
        assert discovery.stats().fence_failures == 0
        await plain.delete(mine.id)
        await eventually(lambda: discovery.stats().reregistrations, DEADLINE)
        assert registration.state is natsdisc.State.ACTIVE
        assert await discovery.list(endpoints()) == [mine]


def far_away() -> natsdisc.EndpointSpec:
    return natsdisc.EndpointSpec("ns", "comp", "far", transport=natsdisc.Transport.nats("far"))


async def test_a_link_that_is_half_open_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """With the server alive: a watcher on a connection of ours comes back, any other one says it is stale."""
    caplog.set_level(logging.INFO, "natsdisc")
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url, discoveries=3) as fleet,
    ):
        client = await nats.connect(proxy.url)
        users = natsdisc.Discovery(natsdisc.JetStreamStore(client))
        follower = Follower(users, endpoints("ns1"))
        await eventually(lambda: follower.live)
        proxy.half_open(new=True)
        since = time.monotonic()
        await fleet.put_foreign(range(20))
        await eventually(
            lambda: all(discovery.stats().resyncs for discovery in [*fleet.watching, users]), DEADLINE
        )
        print(f"half open: noticed after {time.monotonic() - since:.1f} s")
        stale = [record for record in caplog.records if "is stale" in record.message]
        assert {record.levelno for record in stale} == {logging.WARNING}
        await fleet.converged("half open for ever, from its beginning", since)
        assert "is in sync again" in caplog.text
        # The user's own connection is the user's to mend: no event, and no end either.
        assert client.is_connected
        assert foreign(1).id not in follower.live
        assert follower.outcome is None
        await users.close()
        await follower.aclose()
        assert follower.outcome == "closed"
        await client.close()


async def test_a_link_that_is_half_open_with_nowhere_else_to_go() -> None:
    """Stale, not ended and not empty; when the link works again it is in sync again."""
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url, discoveries=2) as fleet,
    ):
        before = await fleet.events()
        proxy.half_open(new=False)
        await eventually(lambda: all(discovery.stats().resyncs for discovery in fleet.watching), DEADLINE)
        assert await fleet.events() == before, "what cannot be seen is not gone"
        await fleet.put_foreign(range(20))
        proxy.cut()  # the dead connections end at last
        await proxy.heal()
        await fleet.converged("half open, new connections too; then healed", time.monotonic())
        assert not await fleet.removed()
