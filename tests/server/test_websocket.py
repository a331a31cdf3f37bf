"""Websockets: what works over TCP works over them, and other people's bytes stop nobody there either."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.parser import WatchParser
from tests.raw import Raw
from tests.rig import eventually

pytest.importorskip("aiohttp")

PATIENCE = 30.0
CONFIG = 'websocket { no_tls: true, listen: "127.0.0.1:-1" }'
SUBJECT = b"$KV.v1_instances.ns.comp.ep."
# What nats-py does not survive: subjects with blanks or bytes that are no text, and headers that do not end.
HOSTILE: list[tuple[bytes, bytes]] = [
    (SUBJECT + b"\x0b1", b""),
    (SUBJECT + b"\xff", b""),
    (SUBJECT + b"a\x0cb", b"NATS/1.0\r\n\r\n"),
    (SUBJECT + b"2", b"NATS/1.0\r\nX: y"),
    (SUBJECT + b"3", b"N"),
    (SUBJECT + b"4", b"NATS/1.0\r\nX: \xff\r\n"),
    (SUBJECT + b"5", b"NATS/1.0\r\nNats-Scheduler: x"),
    (SUBJECT + b"6", b"\r\n\r\n"),
]


def websocket_of(server: NatsServer) -> str:
    """Return the URL of its websocket, whose port the server chose."""
    assert server._directory is not None
    (ports,) = (server._directory / "ports").glob("*.ports")
    url: str = json.loads(ports.read_text())["websocket"][0]
    assert url.startswith("ws://127.0.0.1:")
    return url


def spec(name: str) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


@asynccontextmanager
async def discovery_of(whose: str, url: str) -> AsyncIterator[tuple[Discovery, Any]]:
    """Yield a Discovery on a connection of its own or of a user, and that connection."""
    if whose == "ours":
        async with natsdisc.connect(url, lease_ttl=5) as discovery:
            yield discovery, discovery._store._nc  # type: ignore[attr-defined]
        return
    client = await nats.connect(url, ping_interval=3600)  # a connection that is deaf stays so
    try:
        async with Discovery(natsdisc.JetStreamStore(client), lease_ttl=5) as discovery:
            yield discovery, client
    finally:
        await client.close()


# nats-py's own connections say their timeout in a way that aiohttp is going to drop.
@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type:DeprecationWarning")
@pytest.mark.parametrize("whose", ["ours", "the user's"])
async def test_all_works_over_a_websocket(whose: str) -> None:
    """Hostile subjects and headers make no websocket deaf."""
    async with (
        asyncio.timeout(120),
        NatsServer(config=CONFIG) as server,
        discovery_of(whose, websocket_of(server)) as (discovery, client),
        Raw(server.url) as raw,
    ):
        assert type(client._transport).__name__ == "WebSocketTransport"
        told: list[natsdisc.Event] = []
        first = await discovery.register(spec("ep"))
        async with discovery.list_and_watch(endpoints("ns")) as watch:

            async def follow() -> None:
                async for event in watch:
                    told.append(event)  # noqa: PERF401 (an event shows as soon as it came)

            following = asyncio.create_task(follow())
            await eventually(lambda: told, PATIENCE)
            assert await discovery.list(endpoints("ns")) == [first]
            for subject, headers in HOSTILE:
                raw.publish(subject, b"x" * 5_000, headers)
            await raw.sync()
            assert raw.errors == []
            second = await discovery.register(spec("later"))
            await eventually(lambda: len(told) >= 2, PATIENCE)
            assert await discovery.list(endpoints("ns")) == [first, second]
            # A large snapshot comes in many frames, whose ends are not those of messages.
            for number in range(200):
                raw.publish(SUBJECT + b"%x" % (number + 256), b"x" * 3_000, b"NATS/1.0\r\nX: y")
            await raw.sync()
            assert await discovery.list(endpoints("ns")) == [first, second]
            await discovery.unregister(second)
            await eventually(lambda: len(told) >= 3, PATIENCE)
            assert told[:2] == [natsdisc.Added(first), natsdisc.Added(second)]
            (last,) = told[2:]
            assert isinstance(last, natsdisc.Removed)
            assert last.id == second.id
            assert isinstance(client._ps, WatchParser)
            assert client.stats["reconnects"] == 0
        await following
        assert [registration.state for registration in discovery.registrations] == [natsdisc.State.ACTIVE]


async def test_a_websocket_that_says_nothing_is_given_up_in_time() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(natsdisc.StoreUnavailableError, match=f"ws://127.0.0.1:{port}"):
                await natsdisc.connect(f"ws://127.0.0.1:{port}", connect_timeout=1)
