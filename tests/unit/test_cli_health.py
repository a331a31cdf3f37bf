"""Health checks of `natsdisc register`, and the probes behind them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import pytest

from natsdisc import Transport
from natsdisc.cli.failure import Failure
from natsdisc.cli.health import Health, Times
from natsdisc.cli.probes import ProbeFailedError, exec_probe, http_probe, port_probe, tcp_probe


@asynccontextmanager
async def answering(reply: bytes | None) -> AsyncIterator[str]:
    """A server that sends `reply` to each request, or with None says nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reply is not None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_http() -> None:
    for status, fine in ((b"200 OK", True), (b"302 Found", True), (b"404 no", False), (b"503 x", False)):
        async with answering(b"HTTP/1.1 " + status + b"\r\n\r\n") as address:
            health = Health([http_probe(f"http://{address}/health?x=1")], Times())
            assert await health.passes() is fine, status
    assert "answers 503 x" in health.reason
    async with answering(b"+OK\r\n") as address:
        with pytest.raises(ProbeFailedError, match="does not speak HTTP"):
            await http_probe(f"http://{address}")()


async def test_a_silent_service_fails_after_the_timeout() -> None:
    async with answering(None) as address:
        health = Health([http_probe(f"http://{address}")], Times(timeout=0.1))
        assert not await health.passes()
        assert health.reason == "no answer within 0.1 s"
        assert await Health([tcp_probe(address)], Times()).passes()
    assert not await Health([tcp_probe(address)], Times()).passes()


async def test_commands() -> None:
    await exec_probe(f"{sys.executable} -c 'raise SystemExit(0)'")()
    with pytest.raises(ProbeFailedError, match="exit code 3"):
        await exec_probe("sh -c 'exit 3'")()
    # A command that hangs is ended with what it started.
    began = time.monotonic()
    health = Health([exec_probe("sh -c 'sleep 600; true'")], Times(timeout=0.2))
    assert not await health.passes()
    assert time.monotonic() - began < 60


async def test_waiting_until_ready_is_bounded() -> None:
    tries = 0

    async def probe() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ProbeFailedError("not yet")

    await Health([probe], Times()).until_ready(60)
    assert tries == 3
    tries = -(10**9)
    with pytest.raises(Failure, match=r"not ready within .* not yet"):
        await Health([probe], Times()).until_ready(0.2)


def test_ports_of_transports() -> None:
    for transport in (
        Transport.tcp("h:1"),
        Transport.http("http://h"),
        Transport.http("https://[::1]:8443/x"),
        Transport.http("h:80"),
    ):
        assert port_probe(transport) is not None, transport
    for transport in (
        Transport.nats("a.b"),
        Transport.tcp("h"),
        Transport("x", {"a": 1}),
        Transport.http(""),
    ):
        assert port_probe(transport) is None, transport


@pytest.mark.parametrize("url", ["ftp://h", "h:1", "http://", "http://h:x", "http://h/a b", ""])
def test_bad_urls(url: str) -> None:
    with pytest.raises(click.BadParameter):
        http_probe(url)
