"""nats-py's own KeyValue, and a plain acknowledged JetStream publish."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import nats
from nats.js.api import KeyValueConfig
from nats.js.errors import BadRequestError

from .. import data
from .base import NotSupportedError, Peer, Seen, in_turn

_SEED_AT_ONCE = 256


def bucket_of(space: str) -> str:
    """The bucket that natsdisc uses below this prefix: readers of both kinds read the same one."""
    return f"{space}_v1_instances"


async def make_bucket(address: str, space: str) -> None:
    nc = await nats.connect(address)
    try:
        await nc.jetstream().create_key_value(KeyValueConfig(bucket=bucket_of(space)))
    except BadRequestError:  # it is there
        pass
    finally:
        await nc.close()


async def seed_bucket(
    address: str, space: str, count: int, more_headers: dict[str, str] | None = None
) -> None:
    """Fill a bucket with what `KeyValue.create` would write, header included: readers have to read it."""
    nc = await nats.connect(address)
    js = nc.jetstream(timeout=30)
    prefix = f"$KV.{bucket_of(space)}."

    headers = {"Nats-Expected-Last-Subject-Sequence": "0"} | (more_headers or {})

    async def publish(number: int) -> None:
        await js.publish(prefix + data.key(number), data.value(number), headers=headers)

    await in_turn((functools.partial(publish, number) for number in range(count)), _SEED_AT_ONCE)
    await nc.close()


class PlainKv(Peer):
    """`watchall` to read and to watch, `create` to register."""

    nc: Any = None
    js: Any = None
    kv: Any = None

    def __init__(self, address: str, space: str) -> None:
        super().__init__(address, space)
        self._tasks: list[asyncio.Task[None]] = []
        self.picture: dict[str, Any] = {}

    async def connect(self) -> None:
        self.nc = await nats.connect(self.address)
        self.js = self.nc.jetstream()
        try:
            self.kv = await self.js.key_value(bucket_of(self.space))
        except nats.js.errors.BucketNotFoundError:
            self.kv = await self.js.create_key_value(KeyValueConfig(bucket=bucket_of(self.space)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.nc.close()

    async def seed(self, count: int) -> None:
        await seed_bucket(self.address, self.space, count)

    async def list(self) -> int:
        watcher = await self.kv.watchall()
        instances = []
        async for entry in watcher:
            if entry is None:
                break
            instances.append(data.decode(entry.value))
        await watcher.stop()
        return len(instances)

    async def sync(self, count: int) -> float:
        watcher = await self.kv.watchall()
        async for entry in watcher:
            if entry is not None:
                data.endpoint_of(entry.value)
                count -= 1
                if not count:
                    break
        done = time.perf_counter()
        await watcher.stop()
        return done

    async def hold(self, count: int) -> None:
        watcher = await self.kv.watchall()
        complete = asyncio.Event()

        async def run() -> None:
            async for entry in watcher:
                if entry is None:
                    complete.set()
                else:
                    self.picture[entry.key] = data.decode(entry.value)

        self._tasks.append(asyncio.create_task(run()))
        await complete.wait()
        assert len(self.picture) == count

    async def follow(self, seen: Seen, gone: Seen) -> None:
        watcher = await self.kv.watchall()
        ready = asyncio.Event()

        async def run() -> None:
            async for entry in watcher:
                if entry is None:
                    ready.set()
                elif entry.operation is None:
                    seen(data.endpoint_of(entry.value))
                else:
                    gone(entry.key.split(".")[2])

        self._tasks.append(asyncio.create_task(run()))
        await ready.wait()

    async def put(self, number: int, *, leased: bool) -> None:
        if leased:
            raise NotSupportedError("a KeyValue has no lease that is renewed")
        await self.kv.create(data.registered_key(number), data.registered_value(number))


class PlainKeys(PlainKv):
    """`keys` instead, which reads no values."""

    async def list(self) -> int:
        return len(await self.kv.keys())


class Publish(PlainKv):
    """One acknowledged publish with the same bytes: the least a durable registration can cost."""

    async def put(self, number: int, *, leased: bool) -> None:
        del leased
        subject = f"$KV.{bucket_of(self.space)}.{data.registered_key(number)}"
        await self.js.publish(subject, data.registered_value(number))
