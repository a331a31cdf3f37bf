"""The fixtures that need an event loop, as pytest-asyncio makes them: in strict and in auto mode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from natsdisc import Connecting, Discovery, MemoryStore


@pytest_asyncio.fixture
async def natsdisc_discovery(natsdisc_connect: Callable[..., Connecting]) -> AsyncIterator[Discovery]:
    """A Discovery in this test's own registry on a real server."""
    async with natsdisc_connect() as discovery:
        yield discovery


@pytest_asyncio.fixture
async def natsdisc_memory_discovery(natsdisc_memory_store: MemoryStore) -> AsyncIterator[Discovery]:
    """A Discovery in `natsdisc_memory_store`."""
    import natsdisc

    async with natsdisc.Discovery(natsdisc_memory_store) as discovery:
        yield discovery
