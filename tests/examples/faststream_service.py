"""The same with FastStream: it registers when its subscriber listens, on the broker's own connection.

NATS_URL=nats://127.0.0.1:4222 python faststream_service.py
"""

from __future__ import annotations

import asyncio
import os
import secrets

from faststream import FastStream
from faststream.nats import NatsBroker

import natsdisc
from natsdisc import EndpointSpec, Transport

SUBJECT = f"shop.orders.place.{secrets.token_hex(8)}"
broker = NatsBroker(os.environ["NATS_URL"])
app = FastStream(broker)
held: list[natsdisc.Discovery] = []


@broker.subscriber(SUBJECT)
async def place(order: str) -> str:
    return f"placed: {order}"


@app.after_startup
async def register() -> None:
    discovery = natsdisc.Discovery(natsdisc.JetStreamStore(await broker.connect()))
    held.append(discovery)
    await discovery.register(EndpointSpec("shop", "orders", "place", transport=Transport.nats(SUBJECT)))


@app.on_shutdown
async def leave() -> None:
    for discovery in held:
        await discovery.close(drain=1.0)


if __name__ == "__main__":
    asyncio.run(app.run())
