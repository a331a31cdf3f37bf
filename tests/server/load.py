"""Requests over HTTP for the tests of examples: what one client sees while services come and go."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from natsdisc.server import NatsServer
from tests.programs import PATIENCE, Program, running
from tests.rig import eventually

ENOUGH = 40  # requests by which a change has been noticed


class Load:
    """Four requests at a time; `ask` sends one and returns who answered it."""

    def __init__(self, ask: Callable[[], Awaitable[str]]) -> None:
        self._ask = ask
        self.answered: list[str] = []
        self.failures: list[Exception] = []

    async def more(self, number: int = ENOUGH) -> set[str]:
        """Return who answered since now."""
        before = len(self.answered)
        await eventually(lambda: len(self.answered) >= before + number or bool(self.failures), PATIENCE)
        return set(self.answered[before:])

    async def _run(self) -> None:
        while True:
            try:
                self.answered.append(await self._ask())
            except Exception as error:
                self.failures.append(error)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def load(ask: Callable[[], Awaitable[str]]) -> AsyncIterator[Load]:
    """Send requests until the end, when none of them has failed."""
    sending = Load(ask)
    tasks = [asyncio.create_task(sending._run()) for _ in range(4)]
    try:
        yield sending
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sending.failures == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@asynccontextmanager
async def web(
    server: NatsServer, module: str, *options: str, port: int | None = None, **environment: str
) -> AsyncIterator[Program]:
    """Run uvicorn or gunicorn with `options`, in which PORT is a free port; `first_line` is its address."""
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory() as home:  # gunicorn keeps a socket there
        environment |= {"NATS_URL": server.url, "ADDRESS": f"http://127.0.0.1:{port}", "HOME": home}
        arguments = [option.replace("PORT", str(port)) for option in options]
        async with running(module, *arguments, **environment) as program:
            program.first_line = environment["ADDRESS"]
            yield program
