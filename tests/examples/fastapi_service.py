"""The same with FastAPI, or Starlette, under uvicorn: every worker process registers itself.

NATS_URL=nats://127.0.0.1:4222 ADDRESS=http://127.0.0.1:8000 uvicorn --port 8000 fastapi_service:app
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI

import natsdisc
from natsdisc import EndpointSpec, Transport

ADDRESS = os.environ["ADDRESS"]
DRAIN = 1.0  # longer than clients take to hear of the mark and to finish what they sent before


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with natsdisc.connect(os.environ["NATS_URL"]) as discovery:
        announcing = asyncio.create_task(announce(discovery))
        drain_before_shutdown(discovery)
        yield
        announcing.cancel()


async def announce(discovery: natsdisc.Discovery) -> None:
    """Register when the server listens: it begins to after the lifespan's first half."""
    place = urlsplit(ADDRESS)
    while True:
        try:
            _, connection = await asyncio.open_connection(place.hostname, place.port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            connection.close()
            break
    await discovery.register(EndpointSpec("shop", "cart", "fastapi", transport=Transport.http(ADDRESS)))


def drain_before_shutdown(discovery: natsdisc.Discovery) -> None:
    """On SIGTERM leave first, and then tell the server: it stops listening before the lifespan's end."""
    shutdown = signal.getsignal(signal.SIGTERM)

    async def leave() -> None:
        await discovery.close(drain=DRAIN)
        assert callable(shutdown)
        shutdown(signal.SIGTERM, None)

    leaving: list[asyncio.Task[None]] = []  # a loop does not keep its tasks
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: leaving.append(loop.create_task(leave())))


app = FastAPI(lifespan=lifespan)


@app.get("/order/{number}")
async def order(number: int) -> dict[str, int]:
    return {"paid": number, "by": os.getpid()}
