"""natsio's KeyValue, which needs a newer Python than the others."""

from __future__ import annotations

import asyncio
import importlib
import time
from contextlib import suppress
from typing import Any

from .. import data
from .base import NotSupportedError, Peer, Seen

natsio: Any = importlib.import_module("natsio")


class NatsioKv(Peer):
    """`watch` to read and to watch, `create` to register."""

    nc: Any = None
    kv: Any = None

    def __init__(self, address: str, space: str) -> None:
        super().__init__(address, space)
        self._tasks: list[asyncio.Task[None]] = []
        self.picture: dict[str, Any] = {}

    async def connect(self) -> None:
        bucket = f"{self.space}_v1_instances"
        self.nc = await natsio.connect(self.address)
        js = self.nc.jetstream()
        try:
            self.kv = await js.key_value(bucket)
        except Exception as error:
            if "NotFound" not in type(error).__name__:
                raise
            config = importlib.import_module("natsio.kv").KeyValueConfig(bucket=bucket)
            self.kv = await js.create_key_value(config)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):
            await self.nc.close()

    async def list(self) -> int:
        instances = []
        async with self.kv.watch() as watcher:
            async for entry in watcher:
                if entry is None:
                    break
                instances.append(data.decode(entry.value))
        return len(instances)

    async def sync(self, count: int) -> float:
        async with self.kv.watch() as watcher:
            async for entry in watcher:
                if entry is not None:
                    data.endpoint_of(entry.value)
                    count -= 1
                    if not count:
                        break
            return time.perf_counter()

    async def hold(self, count: int) -> None:
        complete = asyncio.Event()

        async def run() -> None:
            async with self.kv.watch() as watcher:
                async for entry in watcher:
                    if entry is None:
                        complete.set()
                    else:
                        self.picture[entry.key] = data.decode(entry.value)

        self._tasks.append(asyncio.create_task(run()))
        await complete.wait()
        assert len(self.picture) == count

    async def follow(self, seen: Seen, gone: Seen) -> None:
        ready = asyncio.Event()

        async def run() -> None:
            async with self.kv.watch() as watcher:
                async for entry in watcher:
                    if entry is None:
                        ready.set()
                    elif entry.is_marker:
                        gone(entry.key.split(".")[2])
                    else:
                        seen(data.endpoint_of(entry.value))

        self._tasks.append(asyncio.create_task(run()))
        await ready.wait()

    async def put(self, number: int, *, leased: bool) -> None:
        if leased:
            raise NotSupportedError("a KeyValue has no lease that is renewed")
        await self.kv.create(data.registered_key(number), data.registered_value(number))
