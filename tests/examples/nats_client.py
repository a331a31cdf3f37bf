"""A client of that service: it picks an instance for each request, and tries another one if that fails.

python nats_client.py nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter

import nats
from nats.errors import NoRespondersError

import natsdisc
from natsdisc import EndpointInstance, NoInstanceError, View, endpoints
from natsdisc.balance import LeastOutstanding

AT_ONCE = 4  # requests in flight
PAUSE = 0.005  # after each, in seconds


async def request(nc: nats.NATS, view: View[EndpointInstance], order: bytes, counts: Counter[str]) -> bytes:
    for retries_left in (1, 0):
        async with view.using(timeout=2) as instance:
            try:
                return bytes((await nc.request(instance.transport.address, order, timeout=1)).data)
            except (NoRespondersError, TimeoutError):
                view.report_failure(instance.id)
                if not retries_left:
                    raise
                counts["retries"] += 1
    raise AssertionError("the last try returns or raises")


async def orders(
    nc: nats.NATS, view: View[EndpointInstance], stop: asyncio.Event, counts: Counter[str]
) -> None:
    while not stop.is_set():
        counts["requests"] += 1
        order = b"order %d" % counts["requests"]
        try:
            assert await request(nc, view, order, counts) == b"paid: " + order
        except (NoRespondersError, TimeoutError, NoInstanceError):
            counts["failures"] += 1
        await asyncio.sleep(PAUSE)


async def main(url: str) -> None:
    stop, counts = asyncio.Event(), Counter(requests=0, failures=0, retries=0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    nc = await nats.connect(url)
    async with (
        natsdisc.Discovery(natsdisc.JetStreamStore(nc)) as discovery,
        discovery.view(endpoints("shop", "cart", "checkout"), balance=LeastOutstanding()) as view,
    ):
        await view.wait_for(1)
        await asyncio.gather(*(orders(nc, view, stop, counts) for _ in range(AT_ONCE)))
    print(json.dumps(counts), flush=True)
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
