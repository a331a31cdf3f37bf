"""One registry for a test, on either store, and any number of Discoveries in it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc.store import Store


class Registry:
    """Makes Discoveries that share one registry; it closes what the test leaves open."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._prefix = f"test{secrets.token_hex(6)}"
        self._memory = natsdisc.MemoryStore()
        self._opened: list[natsdisc.Discovery] = []

    @property
    def on_server(self) -> bool:
        """Whether this is a real server's."""
        return self._url is not None

    async def join(self, **options: Any) -> natsdisc.Discovery:
        """One more process's Discovery."""
        if self._url is None:
            discovery = natsdisc.Discovery(self._memory, **options)
        else:
            discovery = await natsdisc.connect(self._url, bucket_prefix=self._prefix, **options)
        self._opened.append(discovery)
        return discovery

    async def store(self) -> Store:
        """The store below, for what a foreign client may do."""
        return (await self.join())._store

    async def close(self) -> None:
        for discovery in self._opened:
            await discovery.close()
        if self._url is not None:
            client = await nats.connect(self._url)
            for bucket in ("v1_instances", "v1_mdc"):
                try:
                    await client.jetstream().delete_stream(f"KV_{self._prefix}_{bucket}")
                except nats.js.errors.NotFoundError:
                    continue
            await client.close()


@pytest.fixture(params=["memory", "jetstream"])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    """An empty registry on each store."""
    url = request.getfixturevalue("nats_url") if request.param == "jetstream" else None
    registry = Registry(url)
    yield registry
    await registry.close()


@pytest.fixture(autouse=True, scope="session")
def _server_is_up(nats_url: str) -> None:
    """Started before the first test, so that it does not count as something a test left behind."""
