"""ZooKeeper through kazoo: ephemeral nodes, and ChildrenWatch with a get for each new child.

kazoo works in threads of its own; calls that wait block the event loop, where nothing else happens here.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Iterable
from typing import Any

from .. import data
from .base import Peer, Seen

kazoo_client: Any = importlib.import_module("kazoo.client")

_PIPELINE = 1_000


class ZooKeeper(Peer):
    """One session for the process: its ephemeral nodes go when it does."""

    def __init__(self, address: str, space: str, lease_ttl: float = data.TTL) -> None:
        super().__init__(address, space)
        self.lease_ttl = lease_ttl
        self.client: Any = None
        self.picture: dict[str, Any] = {}
        self._root = f"/{space}"
        self._registered = f"/{space}/registered"

    async def connect(self) -> None:
        self.client = kazoo_client.KazooClient(hosts=self.address, timeout=self.lease_ttl)
        self.client.start(timeout=15)

    async def close(self) -> None:
        self.client.stop()
        self.client.close()

    async def make(self) -> None:
        self.client.ensure_path(self._registered)

    async def seed(self, count: int) -> None:
        for number in range(min(count, data.ENDPOINTS)):
            self.client.ensure_path(f"{self._root}/{data.endpoint(number)}")
        for start in range(0, count, _PIPELINE):
            created = [
                self.client.create_async(
                    f"{self._root}/{data.endpoint(number)}/{data.instance_id(number):x}", data.value(number)
                )
                for number in range(start, min(count, start + _PIPELINE))
            ]
            for answer in created:
                answer.get()

    def _read(self) -> list[tuple[str, bytes]]:
        found = []
        for endpoint in self.client.get_children(self._root):
            path = f"{self._root}/{endpoint}"
            children = self.client.get_children(path)
            answers = [(child, self.client.get_async(f"{path}/{child}")) for child in children]
            found += [(f"{endpoint}/{child}", answer.get()[0]) for child, answer in answers]
        return found

    async def list(self) -> int:
        return len([data.decode(value) for _, value in self._read()])

    async def sync(self, count: int) -> float:
        found = self._read()
        for _, value in found:
            data.endpoint_of(value)
        assert len(found) == count
        return time.perf_counter()

    async def hold(self, count: int) -> None:
        for path, value in self._read():
            self.picture[path] = data.decode(value)
        assert len(self.picture) == count
        for endpoint in self.client.get_children(self._root):
            self.client.ChildrenWatch(f"{self._root}/{endpoint}", lambda children: None)

    async def follow(self, seen: Seen, gone: Seen) -> None:
        known: set[str] = set()

        def changed(children: list[str]) -> None:
            now = set(children)
            answers = [self.client.get_async(f"{self._registered}/{child}") for child in now - known]
            for child in known - now:
                gone(child)
            known.clear()
            known.update(now)
            for answer in answers:
                seen(data.endpoint_of(answer.get()[0]))

        self.client.ChildrenWatch(self._registered, changed)

    def _path(self, number: int) -> str:
        return f"{self._registered}/{data.registered(number)}"

    async def put(self, number: int, *, leased: bool) -> None:
        self.client.create(self._path(number), data.registered_value(number), ephemeral=leased)
        await asyncio.sleep(0)

    async def put_many(self, numbers: Iterable[int], *, leased: bool) -> None:
        answers = [
            self.client.create_async(self._path(number), data.registered_value(number), ephemeral=leased)
            for number in numbers
        ]
        for answer in answers:
            answer.get()
