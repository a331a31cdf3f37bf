"""The Flask example under gunicorn, restarted under load: no request fails, and none is sent again."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from contextlib import AsyncExitStack

import pytest

import natsdisc
from natsdisc import EndpointInstance, endpoints
from natsdisc.balance import is_draining
from natsdisc.server import NatsServer
from tests.programs import PATIENCE
from tests.rig import eventually
from tests.server.load import load, web

FLASK = endpoints("shop", "cart", "flask")
GUNICORN = [
    "gunicorn",
    "--log-level",
    "warning",
    "-w",
    "2",
    "-b",
    "127.0.0.1:PORT",
    "-c",
    "python:flask_service",
]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize(
    "worker", [["-k", "sync"], ["-k", "gthread", "--preload"], ["-k", "gevent"]], ids=" ".join
)
async def test_a_restart_fails_no_request(worker: list[str]) -> None:
    command = [*GUNICORN, *worker, "flask_service:app"]
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url) as client,
        client.view(FLASK) as view,
        AsyncExitStack() as stack,
    ):

        async def ask() -> str:
            async with view.using(timeout=PATIENCE) as instance:
                assert isinstance(instance, EndpointInstance)
                address = str(instance.transport.address)
                answer = json.loads(await asyncio.to_thread(get, f"{address}/order/7"))
            assert answer["paid"] == 7
            return f"{address} {answer['by']}"

        first = await stack.enter_async_context(web(server, *command))
        await view.wait_for(2, timeout=PATIENCE)
        async with load(ask) as sending:
            await sending.more()
            second = await stack.enter_async_context(web(server, *command))
            await view.wait_for(4, timeout=PATIENCE)
            await sending.more()
            first.process.send_signal(signal.SIGTERM)
            await eventually(lambda: any(map(is_draining, view)), PATIENCE)
            async with asyncio.timeout(PATIENCE):
                assert await first.process.wait() == 0
            await eventually(lambda: len(view) == 2, PATIENCE)
            assert {one.split()[0] for one in await sending.more()} == {second.first_line}
        async with asyncio.timeout(PATIENCE):
            assert await second.end() == 0
        assert await client.list(FLASK) == []
