"""The examples for frameworks and for other clients, run for real."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import nats
import pytest

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, RemovalReason, Removed, Transport, endpoints
from natsdisc.balance import is_draining
from natsdisc.server import NatsServer
from tests.programs import EXAMPLES, PATIENCE, Program, running
from tests.rig import eventually, node_modules

FASTAPI = endpoints("shop", "cart", "fastapi")
ENOUGH = 40  # requests by which a change has been noticed


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with NatsServer() as server:
        yield server


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[natsdisc.Discovery]:
    async with natsdisc.connect(server.url) as discovery:
        yield discovery


UVICORN = "uvicorn --log-level warning --port"
UVICORN_WORKERS = f"uvicorn --workers 2 {UVICORN.removeprefix('uvicorn ')}"
GUNICORN = "gunicorn --log-level warning -k uvicorn_worker.UvicornWorker -w 2 -b"


@asynccontextmanager
async def fastapi(server: NatsServer, command: str) -> AsyncIterator[Program]:
    """The FastAPI example at a free port, which `command` still lacks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    module, *options = command.split()
    place = str(port) if options[-1] == "--port" else f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as home:  # gunicorn keeps a socket there
        environment = {"NATS_URL": server.url, "ADDRESS": f"http://127.0.0.1:{port}", "HOME": home}
        async with running(module, *options, place, "fastapi_service:app", **environment) as program:
            program.first_line = environment["ADDRESS"]
            yield program


class Load:
    """Requests over HTTP, four at a time, that are never tried again."""

    def __init__(self, view: natsdisc.View[natsdisc.EndpointInstance]) -> None:
        self._view = view
        self.answered: list[str] = []
        self.failures: list[Exception] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._ask() for _ in range(4)))

    async def _ask(self) -> None:
        while True:
            async with self._view.using(timeout=5) as instance:
                address = _address(instance)
                try:
                    answer = await asyncio.to_thread(_get, f"{address}/order/7")
                except OSError as error:
                    self.failures.append(error)
                else:
                    assert json.loads(answer)["paid"] == 7
                    self.answered.append(address)
            await asyncio.sleep(0.005)

    async def more(self) -> set[str]:
        """Who answered since now."""
        before = len(self.answered)
        await eventually(lambda: len(self.answered) >= before + ENOUGH, PATIENCE)
        return set(self.answered[before:])


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


async def test_fastapi_restarts_without_losing_a_request(
    server: NatsServer, client: natsdisc.Discovery
) -> None:
    async with AsyncExitStack() as stack, client.view(FASTAPI) as view:
        first = await stack.enter_async_context(fastapi(server, UVICORN))
        await view.wait_for(1, timeout=PATIENCE)
        load = Load(view)
        loading = asyncio.create_task(load.run())
        try:
            assert await load.more() == {first.first_line}
            second = await stack.enter_async_context(fastapi(server, UVICORN))
            await eventually(lambda: second.first_line in load.answered, PATIENCE)
            assert first.process.returncode is None
            first.process.send_signal(signal.SIGTERM)
            await eventually(lambda: any(map(is_draining, view)), PATIENCE)
            await first.process.wait()
            await eventually(lambda: len(view) == 1, PATIENCE)
            assert await load.more() == {second.first_line}
        finally:
            loading.cancel()
            await asyncio.wait((loading,))
        assert load.failures == []


@pytest.mark.parametrize("command", [UVICORN_WORKERS, GUNICORN, f"gunicorn --preload {GUNICORN[9:]}"])
async def test_every_worker_registers_itself(
    server: NatsServer, client: natsdisc.Discovery, command: str
) -> None:
    async with fastapi(server, command) as program, client.view(FASTAPI) as view:
        await view.wait_for(2, timeout=PATIENCE)
        assert {_address(instance) for instance in view} == {program.first_line}
        gone = _removals(view)
        await program.end()
        await eventually(lambda: gone == [RemovalReason.UNREGISTERED] * 2, PATIENCE)


async def test_faststream(server: NatsServer, client: natsdisc.Discovery) -> None:
    async with (
        running("faststream_service.py", NATS_URL=server.url) as program,
        client.view(endpoints("shop", "orders", "place")) as view,
    ):
        await view.wait_for(1, timeout=PATIENCE)
        nc = await nats.connect(server.url)
        gone = _removals(view)
        subject = _address(view.pick())
        assert (await nc.request(subject, b"tea", timeout=PATIENCE)).data == b"placed: tea"
        program.process.send_signal(signal.SIGTERM)
        await eventually(lambda: any(map(is_draining, view)), PATIENCE)
        assert (await nc.request(subject, b"more tea", timeout=PATIENCE)).data == b"placed: more tea"
        await eventually(lambda: gone == [RemovalReason.UNREGISTERED], PATIENCE)
        await program.process.wait()
        await nc.close()


def _removals(view: natsdisc.View[natsdisc.EndpointInstance]) -> list[RemovalReason]:
    """Why instances went, from now on."""
    reasons: list[RemovalReason] = []
    view.subscribe(lambda event: reasons.append(event.reason) if isinstance(event, Removed) else None)
    return reasons


def _address(instance: natsdisc.EndpointInstance | natsdisc.ModelInstance) -> str:
    assert isinstance(instance, EndpointInstance)
    return str(instance.transport.address)


async def test_nats_js_reads_the_same_bucket(server: NatsServer, client: natsdisc.Discovery) -> None:
    modules = node_modules()
    kept = await client.register(_spec("kept"))
    await client.unregister(await client.register(_spec("gone")))
    # In a thread: this loop keeps the lease alive.
    done = await asyncio.to_thread(
        subprocess.run,
        ["node", str(EXAMPLES / "list.js"), server.url],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'shop.cart.kept.{kept.instance_id:x} {{"nats_tcp":"a"}}\n'


async def test_the_nats_command_reads_the_same_bucket(server: NatsServer, client: natsdisc.Discovery) -> None:
    if shutil.which("nats") is None:
        pytest.skip("the nats command is not installed")
    kept = await client.register(_spec("kept"))
    done = await asyncio.to_thread(
        subprocess.run,
        ["nats", "--server", server.url, "kv", "ls", "v1_instances"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert f"shop.cart.kept.{kept.instance_id:x}" in done.stdout


def _spec(endpoint: str) -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.nats("a"))
