"""A client of the HTTP service: the address comes from a view, the rest is any HTTP client.

python http_client.py nats://127.0.0.1:4222 /order/1
"""

from __future__ import annotations

import asyncio
import sys
import urllib.request

import natsdisc
from natsdisc import EndpointInstance, View, endpoints


async def get(view: View[EndpointInstance], path: str) -> str:
    async with view.using(timeout=5) as instance:
        url = f"{instance.transport.address}{path}"
        try:
            with await asyncio.to_thread(urllib.request.urlopen, url, timeout=5) as answer:
                return str(answer.read(), "utf-8")
        except OSError:
            view.report_failure(instance.id)  # the next pick takes another one
            raise


async def main(url: str, *paths: str) -> None:
    async with (
        natsdisc.connect(url) as discovery,
        discovery.view(endpoints("shop", "cart", "http")) as view,
    ):
        for path in paths:
            print(await get(view, path))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
