"""A connection of ours is closed within its bound in every state, and closing raises nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.connection import close_connection, open_connection
from tests.faults.proxy import Proxy
from tests.faults.states import Certificates, Gate, leave_unsent
from tests.rig import eventually

# Two seconds are promised; the rest is for a machine with other work.
CLOSED_WITHIN = 2.5
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


class Scene:
    """A server behind a proxy, with TLS or without, and what may be wrong with it."""

    def __init__(self, server: NatsServer, proxy: Proxy, gate: Gate, url: str, options: dict[str, Any]):
        self.server, self.proxy, self.gate = server, proxy, gate
        self.url, self.options = url, options

    async def healthy(self, client: Any) -> None:
        pass

    async def hung(self, client: Any) -> None:
        self.server.suspend()

    async def half_open(self, client: Any) -> None:
        self.proxy.half_open(new=False)

    async def unsent_bytes(self, client: Any) -> None:
        await leave_unsent(client, self.proxy)

    async def no_server(self, client: Any) -> None:
        self.server.kill()
        await eventually(lambda: not client.is_connected)

    async def wrong_credentials(self, client: Any) -> None:
        await self.gate.shut(self.server)
        await eventually(lambda: not client.is_connected)

    async def hung_while_it_reconnects(self, client: Any) -> None:
        self.server.suspend()
        self.proxy.cut()
        await self.proxy.heal()
        await eventually(lambda: not client.is_connected)


STATES = [name for name, member in vars(Scene).items() if asyncio.iscoroutinefunction(member)]


@asynccontextmanager
async def scene(link: str) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as opened:
        options: dict[str, Any] = {}
        gate, scheme = Gate(), "nats"
        if link == "TLS":
            certificates = opened.enter_context(Certificates())
            gate, scheme = Gate(certificates.config), "tls"
            options["tls"] = certificates.context()
        server = await opened.enter_async_context(NatsServer(config=gate.config))
        proxy = await opened.enter_async_context(Proxy(server.port))
        yield Scene(server, proxy, gate, gate.url(proxy.port, scheme), options)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("link", ["TCP", "TLS"])
async def test_a_connection_is_closed_within_its_bound(link: str, state: str) -> None:
    async with scene(link) as there:
        connection = await open_connection(there.url, there.options)
        await getattr(there, state)(connection.client)
        started = time.monotonic()
        await close_connection(connection.client)
        assert time.monotonic() - started < CLOSED_WITHIN
        assert connection.client.is_closed
        await eventually(lambda: not _tasks_of_nats())


@pytest.mark.parametrize("state", ["half_open", "unsent_bytes"])
async def test_what_follows_a_closed_discovery_runs(state: str) -> None:
    reached = False
    async with scene("TLS") as there:
        async with natsdisc.connect(there.url, **there.options) as discovery:
            await discovery.register(SPEC)
            await getattr(there, state)(_client(discovery))
        reached = True
    assert reached


async def test_the_last_bytes_are_sent_before_the_end() -> None:
    async with scene("TLS") as there:
        receiver = await open_connection(there.url, there.options)
        inbox = await receiver.client.subscribe("last")
        await receiver.client.flush()
        sender = await open_connection(there.url, there.options)
        count = 200
        for _ in range(count):
            await sender.client.publish("last", bytes(10_000))
        await close_connection(sender.client)
        for _ in range(count):
            await inbox.next_msg(5)
        await close_connection(receiver.client)


async def test_a_cancelled_close_leaves_no_task() -> None:
    async with scene("TLS") as there:
        connection = await open_connection(there.url, there.options)
        there.proxy.half_open(new=False)
        closing = asyncio.create_task(close_connection(connection.client))
        await asyncio.sleep(0)  # it has begun
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await eventually(lambda: not _tasks_of_nats())


def _tasks_of_nats() -> set[str]:
    return {
        task.get_name()
        for task in asyncio.all_tasks()
        if "Client." in str(task.get_coro()) or "natsdisc" in task.get_name()
    }


def _client(discovery: natsdisc.Discovery) -> Any:
    store = discovery._store
    assert isinstance(store, natsdisc.JetStreamStore)
    return store._nc
