"""Commands that wait say what they wait for: at once, again, and when it is over."""

from __future__ import annotations

import asyncio
import signal
from itertools import pairwise

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport
from natsdisc.cli.waiting import growing
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.shell import PATIENCE, Shell, ended, line_of, line_with, on_terminal

REGISTER = ["register", "shop", "cart", "pay", "-t", "tcp=h:1", "--ttl", "30"]
WITHIN = 5.0  # seconds, on a busy machine; a lost connection is told within one


def test_the_pauses_grow_up_to_a_minute() -> None:
    moments = growing()
    assert moments[:5] == [5, 15, 35, 75, 135]
    assert all(60 >= later - earlier >= 5 for earlier, later in pairwise(moments))


@pytest.mark.parametrize(
    ("command", "words"),
    [(REGISTER, "not connected to"), (["watch"], "endpoints is stale")],
    ids=["register", "watch"],
)
async def test_a_server_that_is_away_is_told_at_once_and_again(
    shell: Shell, command: list[str], words: str
) -> None:
    async with NatsServer() as server, natsdisc.connect(server.url, lease_ttl=None) as discovery:
        await discovery.register(EndpointSpec("a", "b", "c", transport=Transport.nats("x")))
        process = await shell.start(*command, "-s", server.url)
        await line_of(process.stdout)
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(WITHIN):
            await line_with(process.stderr, words)
        again = await line_with(process.stderr, "(for ")
        assert f"not connected to {server.url}, trying again" in again
        await asyncio.to_thread(server.restart)
        assert server.url in await line_with(process.stderr, "answers again, after")
        process.terminate()
        outcome = await ended(process)
        assert outcome.code == 0
        assert "not connected" not in outcome.err


async def test_a_server_that_hangs_is_told(shell: Shell) -> None:
    """Its connection stays, and nothing comes through it: `watch` is told by its heartbeats."""
    async with NatsServer() as server, natsdisc.connect(server.url, lease_ttl=None) as discovery:
        await discovery.register(EndpointSpec("a", "b", "c", transport=Transport.nats("x")))
        process = await shell.start("watch", "-s", server.url)
        await line_of(process.stdout)
        server.suspend()
        try:
            assert server.url in await line_with(process.stderr, "(for ")
        finally:
            server.resume()
        await line_with(process.stderr, "answers again")
        process.terminate()
        assert (await ended(process)).code == 0


async def test_a_registration_that_nobody_confirms_is_told(shell: Shell) -> None:
    async with NatsServer() as server:
        process = await shell.start(*REGISTER[:-1], "6", "-s", server.url)
        path = await line_of(process.stdout)
        server.suspend()
        try:
            line = await line_with(process.stderr, "trying again")
            assert path in line or "not connected" in line
        finally:
            server.resume()
        await line_with(process.stderr, "answers again")
        process.terminate()
        assert (await ended(process)).code == 0


async def swallow(server: NatsServer) -> nats.NATS:
    """Somebody takes every request to JetStream, and answers none."""
    client = await nats.connect(server.url)
    await client.subscribe("$JS.API.>")
    await client.flush()
    return client


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["ls", "shop"], "still listing endpoints/shop"),
        (["status"], "still reading the buckets"),
        (["prune", "*"], "still looking for registrations"),
        (REGISTER, "still registering shop/cart/pay/"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_a_wait_for_an_answer_is_told_in_a_log_too(
    shell: Shell, command: list[str], words: str
) -> None:
    async with NatsServer(jetstream=False) as server:
        client = await swallow(server)
        outcome = await shell.run(*command, "-s", server.url)
        await client.close()
    assert outcome.code in (1, 3)
    first, *_, last = outcome.err.splitlines()
    assert first.startswith(f"natsdisc: {words}")
    assert "for 3 s now" in first
    assert last.startswith("natsdisc: error: ")


async def test_top_shows_it_between_its_lines(shell: Shell) -> None:
    async with NatsServer() as server, on_terminal(shell, "top", "-s", server.url, columns=150) as screen:
        await eventually(lambda: screen.shows("0 instances"), PATIENCE)
        await asyncio.to_thread(server.kill)
        await eventually(lambda: screen.shows(f"not connected to {server.url}"), PATIENCE)
        screen.process.send_signal(signal.SIGINT)
        await screen.end()
    assert screen.code == 0
