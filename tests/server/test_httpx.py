"""The httpx transports: real uvicorn services, and servers that break connections on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import httpx
import pytest

import natsdisc
import natsdisc.sync
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.balance import Random, is_draining
from natsdisc.integrations.httpx import DiscoveryTransport, SyncDiscoveryTransport
from natsdisc.server import NatsServer
from tests.programs import PATIENCE
from tests.rig import eventually
from tests.server.load import free_port, load, web

PLACE = endpoints("shop", "cart", "fastapi")
URL = "http://fastapi.cart.shop/order/7"


long = pytest.mark.skipif(not os.environ.get("NATSDISC_LONG"), reason="runs with NATSDISC_LONG")


@pytest.mark.parametrize("kind", ["async", pytest.param("sync", marks=long)])
async def test_a_kill_and_a_shutdown_fail_no_request(kind: str) -> None:
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url) as discovery,
        discovery.view(PLACE) as view,
        AsyncExitStack() as stack,
    ):
        services = [
            await stack.enter_async_context(
                web(server, "uvicorn", "--log-level", "warning", "--port", "PORT", "fastapi_service:app")
            )
            for _ in range(3)
        ]
        await view.wait_for(3, timeout=PATIENCE)
        if kind == "async":
            client = await stack.enter_async_context(
                httpx.AsyncClient(transport=DiscoveryTransport(discovery))
            )

            async def ask() -> str:
                answer = await client.get(URL)
                return str(answer.raise_for_status().json()["by"])
        else:
            # It has a connection of its own: this loop must not wait for it.
            blocking = stack.enter_context(natsdisc.sync.connect(server.url))
            sync_client = stack.enter_context(httpx.Client(transport=SyncDiscoveryTransport(blocking)))

            async def ask() -> str:
                answer = await asyncio.to_thread(sync_client.get, URL)
                return str(answer.raise_for_status().json()["by"])

        killed, stopped, left = services
        async with load(ask) as sending:
            assert len(await sending.more()) == 3
            killed.process.send_signal(signal.SIGKILL)
            await killed.process.wait()
            await sending.more()
            stopped.process.send_signal(signal.SIGTERM)
            await eventually(lambda: any(map(is_draining, view)), PATIENCE)
            await stopped.process.wait()
            await sending.more()
            assert await sending.more() == {str(left.process.pid)}


class Peer:
    """An HTTP server that counts requests and can drop connections after it has read one."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.drops = False
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = b""
            if b"transfer-encoding: chunked" in head.lower():
                body = await reader.readuntil(b"0\r\n\r\n")
            else:
                body = await reader.readexactly(length)
            self.requests.append(head + body)
            if not self.drops:
                text = json.dumps({"port": self.port}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text)
                )
                writer.write(text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def peer(*, drops: bool = False) -> AsyncIterator[Peer]:
    one = Peer()
    one.drops = drops
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await server.wait_closed()


class InOrder:
    """Always the first one, so that a test knows which instance is asked first."""

    def pick(self, instances: object) -> object:
        assert isinstance(instances, tuple)
        if not instances:
            raise natsdisc.NoInstanceError("nobody")
        return instances[0]

    def started(self, id: object) -> None: ...

    def finished(self, id: object) -> None: ...


@pytest.fixture
async def store() -> natsdisc.MemoryStore:
    return natsdisc.MemoryStore()


async def register(store: natsdisc.MemoryStore, stack: AsyncExitStack, number: int, address: str) -> None:
    """Register `address` as the instance `number` of shop/cart/pay."""
    owner = await stack.enter_async_context(natsdisc.Discovery(store, instance_id=number))
    await owner.register(EndpointSpec("shop", "cart", "pay", transport=Transport.http(address)))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def client(store: natsdisc.MemoryStore, stack: AsyncExitStack) -> httpx.AsyncClient:
    balance: natsdisc.balance.Balance = InOrder()  # type: ignore[assignment]
    discovery = await stack.enter_async_context(natsdisc.Discovery(store))
    transport = DiscoveryTransport(discovery, balance=balance, wait=0.2)
    return await stack.enter_async_context(httpx.AsyncClient(transport=transport))


async def test_what_could_not_connect_is_sent_to_another_whatever_it_is(
    store: natsdisc.MemoryStore, stack: AsyncExitStack, client: httpx.AsyncClient
) -> None:
    there = await stack.enter_async_context(peer())
    await register(store, stack, 1, f"http://127.0.0.1:{free_port()}")
    await register(store, stack, 2, there.address)

    async def body() -> AsyncIterator[bytes]:
        yield b"tea"

    answer = await client.post("http://pay.cart.shop/order?a=1", content=body())
    assert answer.json() == {"port": there.port}
    [request] = there.requests
    assert request.startswith(b"POST /order?a=1 HTTP/1.1\r\n")
    assert b"host: pay.cart.shop" in request.lower()
    assert b"tea" in request
    # The dead one is set aside: the next request does not try it.
    assert (await client.post("http://pay.cart.shop/order", content=b"tea")).status_code == 200


@pytest.mark.parametrize(
    ("method", "content", "repeated"),
    [
        ("GET", None, True),
        ("PUT", "bytes", True),
        ("PUT", "stream", False),
        ("POST", "bytes", False),
        ("PATCH", None, False),
    ],
)
async def test_what_was_dropped_is_sent_again_only_where_that_is_safe(
    store: natsdisc.MemoryStore,
    stack: AsyncExitStack,
    client: httpx.AsyncClient,
    method: str,
    content: str | None,
    repeated: bool,
) -> None:
    drops = await stack.enter_async_context(peer(drops=True))
    there = await stack.enter_async_context(peer())
    await register(store, stack, 1, drops.address)
    await register(store, stack, 2, there.address)

    async def body() -> AsyncIterator[bytes]:
        yield b"tea"

    given = {None: None, "bytes": b"tea", "stream": body()}[content]
    if repeated:
        answer = await client.request(method, "http://pay.cart.shop/", content=given)
        assert answer.json() == {"port": there.port}
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.request(method, "http://pay.cart.shop/", content=given)
    assert len(drops.requests) == 1
    assert len(there.requests) == int(repeated)
    # It is set aside in both cases.
    assert (await client.post("http://pay.cart.shop/")).json() == {"port": there.port}


async def test_attempts_end(
    store: natsdisc.MemoryStore, stack: AsyncExitStack, client: httpx.AsyncClient
) -> None:
    peers = [await stack.enter_async_context(peer(drops=True)) for _ in range(4)]
    for number, one in enumerate(peers):
        await register(store, stack, number, one.address)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("http://pay.cart.shop/")
    assert [len(one.requests) for one in peers] == [1, 1, 1, 0]


async def test_hosts_and_schemes(
    store: natsdisc.MemoryStore, stack: AsyncExitStack, client: httpx.AsyncClient
) -> None:
    there = await stack.enter_async_context(peer())
    with pytest.raises(httpx.ConnectError, match="pick from endpoints/shop/cart/pay: 0 instances"):
        await client.get("http://pay.cart.shop/")
    await register(store, stack, 1, f"{there.address}/base/")
    assert (await client.get("http://pay.cart.shop/a")).status_code == 200
    assert there.requests[-1].startswith(b"GET /base/a HTTP/1.1")
    for url in ("http://localhost/", "http://a.b.c.d/", "http://127.0.0.1/"):
        with pytest.raises(httpx.UnsupportedProtocol, match=r"endpoint\.component\.namespace"):
            await client.get(url)
    with pytest.raises(httpx.ConnectError, match="offers no TLS"):
        await client.get("https://pay.cart.shop/")
    discovery = await stack.enter_async_context(natsdisc.Discovery(store))
    hosts = {"pay": endpoints("shop", "cart", "pay")}
    async with httpx.AsyncClient(transport=DiscoveryTransport(discovery, hosts=hosts)) as named:
        assert (await named.get("http://pay/b")).status_code == 200
    owner = await stack.enter_async_context(natsdisc.Discovery(store))
    await owner.register(EndpointSpec("shop", "cart", "bus", transport=Transport.nats("a.b")))
    with pytest.raises(httpx.ConnectError, match="cannot be reached over HTTP"):
        await client.get("http://bus.cart.shop/")
    with pytest.raises(natsdisc.InvalidValueError):
        DiscoveryTransport(discovery, attempts=0)
    with pytest.raises(natsdisc.InvalidValueError):
        DiscoveryTransport(discovery, transport=httpx.AsyncHTTPTransport(), verify=False)


async def test_closing_the_client_closes_its_views(
    store: natsdisc.MemoryStore, stack: AsyncExitStack
) -> None:
    there = await stack.enter_async_context(peer())
    await register(store, stack, 1, there.address)
    discovery = await stack.enter_async_context(natsdisc.Discovery(store))
    balance = natsdisc.balance.LeastOutstanding()
    async with httpx.AsyncClient(transport=DiscoveryTransport(discovery, balance=balance)) as client:
        async with client.stream("GET", "http://pay.cart.shop/") as answer:
            assert balance._outstanding  # it is busy until the response is read
            await answer.aread()
        assert not balance._outstanding
        assert len(discovery.stats().queries) == 1
    assert len(discovery.stats().queries) == 0


async def test_the_sync_transport_has_the_same_rules(stack: AsyncExitStack, nats_url: str) -> None:
    drops = await stack.enter_async_context(peer(drops=True))
    there = await stack.enter_async_context(peer())
    prefix = f"httpx{secrets.token_hex(6)}"
    for number, one in enumerate((f"http://127.0.0.1:{free_port()}", drops.address, there.address)):
        owner = await stack.enter_async_context(
            natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=number)
        )
        await owner.register(EndpointSpec("shop", "cart", "pay", transport=Transport.http(one)))

    def use() -> None:
        balance: natsdisc.balance.Balance = InOrder()  # type: ignore[assignment]
        with natsdisc.sync.connect(nats_url, bucket_prefix=prefix) as discovery:
            transport = SyncDiscoveryTransport(discovery, balance=balance)
            with httpx.Client(transport=transport) as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    client.post("http://pay.cart.shop/", content=b"tea")
                assert len(drops.requests) == 1
                assert client.get("http://pay.cart.shop/").json() == {"port": there.port}
                with pytest.raises(httpx.UnsupportedProtocol):
                    client.get("http://localhost/")
            assert len(discovery.stats().queries) == 0

    await asyncio.to_thread(use)


class _SlowlyRefusing(httpx.AsyncBaseTransport):
    """Stands for hosts that do not answer a connect: longer than the view sets a failed instance aside."""

    def __init__(self, alive: str) -> None:
        self.alive = alive
        self.tried: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tried.append(request.url.host)
        if request.url.host == self.alive:
            return httpx.Response(200)
        await asyncio.sleep(0.6)
        raise httpx.ConnectTimeout("no answer")


_Any = TypeVar("_Any", bound=natsdisc.Instance)


class _First(Random):
    """A balance that has a favourite."""

    def pick(self, instances: Sequence[_Any]) -> _Any:
        return instances[0]


async def test_no_instance_is_tried_twice_while_there_is_another() -> None:
    store = natsdisc.MemoryStore()
    async with AsyncExitStack() as stack:
        for number in range(3):
            service = await stack.enter_async_context(natsdisc.Discovery(store, instance_id=number + 1))
            address = Transport.http(f"http://host{number}:80")
            await service.register(EndpointSpec("shop", "cart", "fastapi", transport=address))
        discovery = await stack.enter_async_context(natsdisc.Discovery(store))
        hosts = _SlowlyRefusing("host2")
        transport = DiscoveryTransport(discovery, transport=hosts, balance=_First())
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(URL)).status_code == 200
        assert hosts.tried == ["host0", "host1", "host2"]
