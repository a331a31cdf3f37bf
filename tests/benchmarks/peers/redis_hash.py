"""Redis: a hash that `HGETALL` reads, and a channel that tells of changes."""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

from .. import data
from .base import NotSupportedError, Peer, Seen

redis: Any = importlib.import_module("redis.asyncio")

_PIPELINE = 1_000


class RedisHash(Peer):
    """`HSET` and `PUBLISH` in one pipeline register; a field has no time to live before Redis 7.4."""

    def __init__(self, address: str, space: str) -> None:
        super().__init__(address, space)
        self.client: Any = None
        self.picture: dict[bytes, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._channels: list[Any] = []

    async def connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        self.client = redis.Redis(host=host, port=int(port))
        await self.client.ping()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.aclose()
        await self.client.aclose()

    async def seed(self, count: int) -> None:
        for start in range(0, count, _PIPELINE):
            numbers = range(start, min(count, start + _PIPELINE))
            await self.client.hset(self.space, mapping={data.key(n): data.value(n) for n in numbers})

    async def list(self) -> int:
        return len([data.decode(value) for value in (await self.client.hgetall(self.space)).values()])

    async def _subscribe(self) -> Any:
        channel = self.client.pubsub(ignore_subscribe_messages=True)
        await channel.subscribe(self.space)
        self._channels.append(channel)
        return channel

    async def sync(self, count: int) -> float:
        await self._subscribe()
        found = await self.client.hgetall(self.space)
        for value in found.values():
            data.endpoint_of(value)
        assert len(found) == count
        return time.perf_counter()

    async def hold(self, count: int) -> None:
        await self.follow(lambda name: None, lambda name: None)
        found = await self.client.hgetall(self.space)
        self.picture = {key: data.decode(value) for key, value in found.items()}
        assert len(self.picture) == count

    async def follow(self, seen: Seen, gone: Seen) -> None:
        del gone
        channel = await self._subscribe()

        async def run() -> None:
            async for message in channel.listen():
                seen(data.endpoint_of(message["data"]))

        self._tasks.append(asyncio.create_task(run()))

    async def put(self, number: int, *, leased: bool) -> None:
        if leased:
            raise NotSupportedError("a field of a hash has no time to live")
        value = data.registered_value(number)
        async with self.client.pipeline(transaction=False) as pipe:
            pipe.hset(self.space, data.registered_key(number), value)
            pipe.publish(self.space, value)
            await pipe.execute()
