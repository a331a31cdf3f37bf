"""natsdisc itself, through what it exports."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import nats

import natsdisc
from natsdisc import Added, EndpointSpec, Removed, Transport, endpoints

from .. import data
from .base import Peer, Seen
from .plain_kv import make_bucket, seed_bucket

QUERY = endpoints(data.NAMESPACE, data.COMPONENT)


class Ours(Peer):
    """On a connection that `natsdisc.connect` makes."""

    def __init__(self, address: str, space: str, lease_ttl: float = data.TTL) -> None:
        super().__init__(address, space)
        self.lease_ttl = lease_ttl
        self.discovery: Any = None
        self.view: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        self.discovery = await natsdisc.connect(
            self.address, bucket_prefix=self.space, lease_ttl=self.lease_ttl, instance_id=data.FIRST_ID
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.discovery.close()

    async def make(self) -> None:
        spec = EndpointSpec(data.NAMESPACE, "other", "make", transport=Transport.nats("make"))
        await self.discovery.register(spec)

    async def seed(self, count: int) -> None:
        await make_bucket(self.address, self.space)
        # What `register` with a lease writes beside the value.
        await seed_bucket(self.address, self.space, count, {"Natsdisc-Leased": "1"})

    async def list(self) -> int:
        return len(await self.discovery.list(QUERY))

    async def sync(self, count: int) -> float:
        async with self.discovery.list_and_watch(QUERY) as events:
            async for _ in events:
                count -= 1
                if not count:
                    break
            return time.perf_counter()

    async def hold(self, count: int) -> None:
        self.view = self.discovery.view(QUERY)
        await self.view.wait_for(count)

    async def follow(self, seen: Seen, gone: Seen) -> None:
        await self._follow(self.discovery, seen, gone)

    async def _follow(self, discovery: Any, seen: Seen, gone: Seen) -> None:
        events = discovery.list_and_watch(QUERY)

        async def run() -> None:
            async with events:
                async for event in events:
                    match event:
                        case Added(instance):
                            seen(instance.endpoint)
                        case Removed(id, _):
                            gone(id.endpoint)

        self._tasks.append(asyncio.create_task(run()))
        await asyncio.sleep(0)
        await events.synced()

    async def put(self, number: int, *, leased: bool) -> None:
        spec = EndpointSpec(
            data.NAMESPACE,
            data.COMPONENT,
            data.registered(number),
            transport=Transport.nats(f"shop.cart.{data.registered(number)}"),
        )
        await self.discovery.register(spec, lease_ttl=self.lease_ttl if leased else None)


class OursOnTheirs(Ours):
    """On a nats-py connection that the service made."""

    nc: Any = None

    async def connect(self) -> None:
        self.nc = await nats.connect(self.address)
        store = natsdisc.JetStreamStore(self.nc, bucket_prefix=self.space)
        self.discovery = natsdisc.Discovery(store, lease_ttl=self.lease_ttl, instance_id=data.FIRST_ID)

    async def close(self) -> None:
        await super().close()
        await self.nc.close()


class OursApart(OursOnTheirs):
    """Each watcher in a Discovery of its own, so that none shares a consumer."""

    async def follow(self, seen: Seen, gone: Seen) -> None:
        store = natsdisc.JetStreamStore(self.nc, bucket_prefix=self.space)
        await self._follow(natsdisc.Discovery(store, lease_ttl=self.lease_ttl), seen, gone)
