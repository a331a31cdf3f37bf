"""One of the processes of a fleet: many owners, each with a connection and one instance of its own.

    python -m tests.faults.fleet_owners COUNT FIRST STORAGE REPLICAS LEASE_TTL URL...

It writes a line when all are registered. For each line that it reads it writes what they counted, as JSON.
It ends when its input does, as `kill -9` would end it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import natsdisc
from natsdisc import Discovery, DiscoveryError, EndpointSpec, Transport

__all__ = ["COMPONENT", "totals"]

COMPONENT = ("fleet", "owners")
CONNECTING_AT_ONCE = 20


def totals(discoveries: list[Discovery]) -> dict[str, float]:
    """Return the sum of every counter over all of them, by its name; nested ones with a dot."""
    total: Counter[str] = Counter()
    for discovery in discoveries:
        stats = discovery.stats()
        for field in dataclasses.fields(stats):
            value: Any = getattr(stats, field.name)
            if dataclasses.is_dataclass(value):
                value = {inner.name: getattr(value, inner.name) for inner in dataclasses.fields(value)}
            if isinstance(value, Mapping):
                for name, each in value.items():
                    if isinstance(each, (int, float)):
                        total[f"{field.name}.{name}"] += each  # type: ignore[assignment]
            elif isinstance(value, (int, float)):
                total[field.name] += value  # type: ignore[assignment]
    return dict(total)


async def _own(
    count: int, first: int, storage: str, replicas: int, lease_ttl: float, urls: list[str]
) -> list[Discovery]:
    slots = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one(number: int) -> Discovery:
        spec = EndpointSpec(*COMPONENT, "ep", transport=Transport.nats(f"owner{number}"))
        options: dict[str, Any] = {"storage": storage, "replicas": replicas, "lease_ttl": lease_ttl}
        async with slots:
            while True:
                mine = random.sample(urls, len(urls))
                try:
                    discovery = await natsdisc.connect(mine, instance_id=number, **options)
                except DiscoveryError:
                    await asyncio.sleep(0.5)
                    continue
                while True:
                    try:
                        await discovery.register(spec)
                        return discovery
                    except DiscoveryError:
                        await asyncio.sleep(0.5)

    return list(await asyncio.gather(*(one(number) for number in range(first, first + count))))


async def main(arguments: list[str]) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    count, first, storage, replicas, lease_ttl, *urls = arguments
    discoveries = await _own(int(count), int(first), storage, int(replicas), float(lease_ttl), urls)
    print("up", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(totals(discoveries)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
