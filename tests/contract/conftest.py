"""One registry for a test, on either store, and any number of Discoveries in it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc.entry import BUCKETS
from natsdisc.store import Store
from natsdisc.store.signed import SignedStore


class Registry:
    """Makes Discoveries that share one registry; it closes what the test leaves open."""

    def __init__(self, url: str | None, *, shares: bool = False) -> None:
        self._url, self._shares = url, shares
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
            if self._shares:
                store = discovery._store
                if isinstance(store, SignedStore):
                    store = store._store
                assert isinstance(store, natsdisc.JetStreamStore)
                store._options = dataclasses.replace(store._options, own_consumers=0)
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
            for bucket in BUCKETS.values():
                try:
                    await client.jetstream().delete_stream(f"KV_{self._prefix}_{bucket}")
                except nats.js.errors.NotFoundError:
                    continue
            await client.close()


@pytest.fixture(params=["memory", "jetstream", "shared consumers"])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    """An empty registry on each store, and on one whose queries share their consumers."""
    url = request.getfixturevalue("nats_url") if request.param != "memory" else None
    registry = Registry(url, shares=request.param == "shared consumers")
    yield registry
    await registry.close()


@pytest.fixture(autouse=True, scope="session")
def _server_is_up(nats_url: str) -> None:
    """Started before the first test, so that it does not count as something a test left behind."""
