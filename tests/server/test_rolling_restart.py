"""The examples under load: instances are restarted and killed, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack

import nats
import pytest

import natsdisc
from natsdisc import EndpointInstance, Transport, endpoints
from natsdisc.balance import is_draining
from natsdisc.server import NatsServer
from tests.programs import PATIENCE, Program, running
from tests.rig import eventually

SERVICES, CLIENTS = 5, 2
CHECKOUT = endpoints("shop", "cart", "checkout")
# How often the two long tests run; one run takes half a minute.
RUNS = range(int(os.environ.get("NATSDISC_SOAK", "1")))
# What one instance has answered before the next one is touched: the load has found it.
FAIR_SHARE = 20
# The clients' requests in flight, and the comebacks of an instance that was set aside: after at least 0.25,
# 0.5, 1 and 2 s its lease of 3 s, the second to which the server rounds it, and the grace of 1 s are over.
IN_FLIGHT, COMEBACKS = 4, 4


class Shop:
    """Five services under the load of two clients."""

    def __init__(self, server: NatsServer, nc: nats.NATS, running: AsyncExitStack) -> None:
        self.url = server.url
        self._nc = nc
        self._running = running
        self._clients: list[Program] = []
        self.services: list[Program] = []

    async def start_service(self) -> Program:
        service = await self._running.enter_async_context(running("nats_service.py", self.url))
        service.first_line = await service.read()  # its subject, printed when it is registered
        assert service.first_line.startswith("shop.cart.checkout.")
        return service

    async def start(self) -> None:
        self.services = list(await asyncio.gather(*(self.start_service() for _ in range(SERVICES))))
        for _ in range(CLIENTS):
            self._clients.append(await self._running.enter_async_context(running("nats_client.py", self.url)))
        await self.everybody_serves()

    async def everybody_serves(self, *, but: Program | None = None) -> None:
        """Wait until every service has answered its share since now; `but` may not, although it could."""
        before = await self._answered()
        now = before

        async def served() -> bool:
            nonlocal now
            now = await self._answered()
            return all(
                now.get(service.first_line, 0) >= before.get(service.first_line, 0) + FAIR_SHARE
                for service in self.services
                if service is not but
            )

        await eventually(served, PATIENCE)
        if but is not None:
            assert now[but.first_line] - before[but.first_line] <= CLIENTS * IN_FLIGHT

    async def end_gently(self, service: Program) -> None:
        """SIGTERM: the clients leave it alone while it is still there."""
        async with natsdisc.connect(self.url) as discovery, discovery.view(CHECKOUT) as view:
            assert len(view) == SERVICES
            service.process.send_signal(signal.SIGTERM)
            await eventually(lambda: service.first_line in addresses(filter(is_draining, view)), PATIENCE)
            await self.everybody_serves(but=service)
            assert len(view) == SERVICES
            async with asyncio.timeout(PATIENCE):
                assert await service.process.wait() == 0
            await eventually(lambda: len(view) == SERVICES - 1)

    async def finish(self) -> list[dict[str, int]]:
        """What the clients counted."""
        for client in self._clients:
            client.process.send_signal(signal.SIGTERM)
        counts: list[dict[str, int]] = []
        for client in self._clients:
            counts.append(json.loads(await client.read()))
            async with asyncio.timeout(PATIENCE):
                assert await client.process.wait() == 0
        return counts

    async def _answered(self) -> dict[str, int]:
        """The requests of each subject, as nats-py's micro API counts them."""
        inbox = self._nc.new_inbox()
        answers = await self._nc.subscribe(inbox)
        await self._nc.publish("$SRV.STATS.checkout", reply=inbox)
        counts: dict[str, int] = {}
        try:
            while len(counts) < SERVICES:
                answer = json.loads((await answers.next_msg(timeout=1)).data)
                for endpoint in answer["endpoints"]:
                    counts[endpoint["subject"]] = endpoint["num_requests"]
        except nats.errors.TimeoutError:
            pass  # one was killed: it is missing in the counts
        finally:
            await answers.unsubscribe()
        return counts


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer())
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        shop = Shop(server, nc, stack)
        await shop.start()
        yield shop


@pytest.mark.parametrize("run", RUNS)
async def test_a_rolling_restart_with_drain_fails_no_request(shop: Shop, run: int) -> None:
    for number, service in enumerate(shop.services):
        await shop.end_gently(service)
        shop.services[number] = await shop.start_service()
        await shop.everybody_serves()
    for counted in await shop.finish():
        assert counted["requests"] > SERVICES * SERVICES * FAIR_SHARE / CLIENTS / 2
        assert counted["failures"] == 0
        assert counted["retries"] == 0  # not even a first try failed


@pytest.mark.parametrize("run", RUNS)
async def test_a_kill_costs_retries_within_bounds_and_no_request(shop: Shop, run: int) -> None:
    victim = shop.services[0]
    async with natsdisc.connect(shop.url) as discovery, discovery.view(CHECKOUT) as view:
        await view.wait_for(SERVICES)
        assert await victim.end(signal.SIGKILL) == -signal.SIGKILL
        async with asyncio.timeout(PATIENCE):
            while len(view) == SERVICES:  # until the lease is over the clients have to help themselves
                await view.changed()
        assert victim.first_line not in addresses(view)
    shop.services[0] = await shop.start_service()
    await shop.everybody_serves()
    counts = await shop.finish()
    for counted in counts:
        assert counted["requests"] > SERVICES * FAIR_SHARE
        assert counted["failures"] == 0
        assert counted["retries"] <= IN_FLIGHT * (1 + COMEBACKS)
    assert sum(counted["retries"] for counted in counts) > 0  # the kill was felt


def addresses(instances: Iterable[natsdisc.Instance]) -> set[str]:
    return {one.transport.address for one in instances if isinstance(one, EndpointInstance)}


async def test_http() -> None:
    async with NatsServer() as server, running("http_service.py", server.url) as service:
        address = await service.read()
        async with (
            natsdisc.connect(server.url) as discovery,
            discovery.view(endpoints("shop", "cart", "http")) as view,
        ):
            [instance] = view
            assert instance == view.pick()
            assert isinstance(instance, EndpointInstance)
            assert instance.transport == Transport.http(address)
        async with running("http_client.py", server.url, "/order/1", "/order/2") as client:
            assert await client.read() == "paid: /order/1"
            assert await client.read() == "paid: /order/2"
            async with asyncio.timeout(PATIENCE):
                assert await client.process.wait() == 0
        assert await service.end() == 0
        async with natsdisc.connect(server.url) as discovery:
            assert await discovery.list(endpoints()) == []
