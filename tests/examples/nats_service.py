"""A service on NATS: it registers where it answers, and leaves without losing a request.

python nats_service.py nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import signal
import sys

import nats
from nats import micro
from nats.micro.request import Request

import natsdisc
from natsdisc.integrations.micro import register

LEASE = 3.0  # what clients may still see of this process after a crash, in seconds
DRAIN = 1.0  # longer than clients take to hear of the mark and to finish what they sent before


async def checkout(request: Request) -> None:
    await request.respond(b"paid: " + request.data)


async def main(url: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    nc = await nats.connect(url)
    service = await micro.add_service(nc, name="checkout", version="1.0.0")
    async with natsdisc.Discovery(natsdisc.JetStreamStore(nc), lease_ttl=LEASE) as discovery:
        subject = f"shop.cart.checkout.{discovery.instance_id:x}"
        await service.add_endpoint(name="checkout", subject=subject, handler=checkout)
        await register(discovery, service, namespace="shop", component="cart", drain=DRAIN)
        print(subject, flush=True)
        await stop.wait()
        await service.stop()  # clients go to the others while this one still answers
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
