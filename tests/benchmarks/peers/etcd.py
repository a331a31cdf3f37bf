"""etcd through aetcd: `get_prefix`, then `watch_prefix` from the revision after it; keys under a lease."""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import time
from collections.abc import Iterable
from typing import Any

from .. import data
from .base import Peer, Seen, in_turn

aetcd: Any = importlib.import_module("aetcd")

_TXN = 100  # the server takes 128 operations in one
_NO_LIMIT = {"grpc.max_receive_message_length": -1}
_RENEWALS_AT_ONCE = 64


class Etcd(Peer):
    """One lease for the process, as etcd's guide has it; `one_lease_each` is for what stands for many."""

    def __init__(
        self, address: str, space: str, lease_ttl: float = data.TTL, *, one_lease_each: bool = False
    ) -> None:
        super().__init__(address, space)
        self.lease_ttl = int(lease_ttl)
        self.one_lease_each = one_lease_each
        self.client: Any = None
        self.leases: list[Any] = []
        self.picture: dict[bytes, Any] = {}
        self._lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._prefix = f"/{space}/".encode()

    async def connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        self.client = aetcd.Client(host, int(port), options=_NO_LIMIT)
        await self.client.connect()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for lease in self.leases[:1] if not self.one_lease_each else ():
            await lease.revoke()
        await self.client.close()

    async def seed(self, count: int) -> None:
        async def write(numbers: tuple[int, ...]) -> None:
            puts = [
                self.client.transactions.put(self._prefix + data.key(number).encode(), data.value(number))
                for number in numbers
            ]
            await self.client.transaction(compare=[], success=puts, failure=[])

        numbers = iter(range(count))
        batches = iter(lambda: tuple(itertools.islice(numbers, _TXN)), ())
        await in_turn((functools.partial(write, batch) for batch in batches), 16)

    async def list(self) -> int:
        return len([data.decode(kv.value) for kv in (await self.client.get_prefix(self._prefix)).kvs])

    async def sync(self, count: int) -> float:
        found = await self.client.get_prefix(self._prefix)
        for kv in found.kvs:
            data.endpoint_of(kv.value)
        done = time.perf_counter()
        assert len(found.kvs) == count
        # Whoever goes on from here watches from the next revision.
        return done

    async def hold(self, count: int) -> None:
        found = await self.client.get_prefix(self._prefix)
        for kv in found.kvs:
            self.picture[kv.key] = data.decode(kv.value)
        assert len(self.picture) == count
        watch = await self.client.watch_prefix(self._prefix, start_revision=found.header.revision + 1)

        async def run() -> None:
            async for event in watch:
                if event.kind == "PUT":
                    self.picture[event.kv.key] = data.decode(event.kv.value)
                else:
                    self.picture.pop(event.kv.key, None)

        self._tasks.append(asyncio.create_task(run()))

    async def follow(self, seen: Seen, gone: Seen) -> None:
        watch = await self.client.watch_prefix(self._prefix)

        async def run() -> None:
            async for event in watch:
                if event.kind == "PUT":
                    seen(data.endpoint_of(event.kv.value))
                else:
                    gone(event.kv.key.decode().split(".")[2])

        self._tasks.append(asyncio.create_task(run()))

    async def put(self, number: int, *, leased: bool) -> None:
        lease = await self._lease() if leased else None
        await self.client.put(
            self._prefix + data.registered_key(number).encode(), data.registered_value(number), lease=lease
        )

    async def put_many(self, numbers: Iterable[int], *, leased: bool) -> None:
        if leased:
            await self._lease()
        await super().put_many(numbers, leased=leased)

    async def _lease(self) -> Any:
        if self.one_lease_each:
            self.leases.append(await self.client.lease(self.lease_ttl))
            return self.leases[-1]
        async with self._lock:
            if not self.leases:
                self.leases.append(await self.client.lease(self.lease_ttl))
        return self.leases[0]

    async def keep_alive(self) -> None:
        while True:
            started = time.monotonic()
            await in_turn((lease.refresh for lease in self.leases), _RENEWALS_AT_ONCE)
            await asyncio.sleep(max(0.0, self.lease_ttl / 3 - (time.monotonic() - started)))
