"""What a peer has to do, so that all of them are measured by the same code."""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable

# An instance came, by its endpoint.
Seen = Callable[[str], None]
AT_ONCE = 64


class NotSupportedError(Exception):
    """The peer has nothing for this."""


class Peer(ABC):
    """One client of one registry at `address`; several registries are kept apart by `space`."""

    def __init__(self, address: str, space: str) -> None:
        self.address = address
        self.space = space

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def prepare(self, count: int) -> None:
        """Find out what must be known before a sync is measured."""
        return

    async def make(self) -> None:
        """Make the registry, if it has to be made before somebody registers."""
        return

    async def seed(self, count: int) -> None:
        """Put the instances 0 to `count`, in no time that counts."""
        raise NotSupportedError("cannot be filled")

    async def list(self) -> int:
        """Read and decode everything; how many there were."""
        raise NotSupportedError("cannot list")

    async def sync(self, count: int) -> float:
        """Start to watch, and say when (perf_counter) `count` instances had been seen, each decoded."""
        raise NotSupportedError("cannot watch")

    async def hold(self, count: int) -> None:
        """The same, and keep a local picture that follows from then on."""
        raise NotSupportedError("cannot watch")

    async def follow(self, seen: Seen, gone: Seen) -> None:
        """Start one more watcher of what is registered; returns when it misses nothing any more."""
        raise NotSupportedError("cannot watch")

    async def put(self, number: int, *, leased: bool) -> None:
        """Register an instance, and wait until the server has taken it."""
        raise NotSupportedError("cannot register")

    async def put_many(self, numbers: Iterable[int], *, leased: bool) -> None:
        """Register instances, many at once."""
        await in_turn((functools.partial(self.put, number, leased=leased) for number in numbers), AT_ONCE)

    async def keep_alive(self) -> None:
        """Renew what was registered with a lease, until cancelled, unless the client does it by itself."""
        return


async def in_turn(work: Iterable[Callable[[], Awaitable[object]]], at_once: int) -> None:
    """Do all the work, `at_once` pieces at a time."""
    source = iter(work)

    async def worker() -> None:
        for piece in source:
            await piece()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
