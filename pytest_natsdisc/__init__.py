"""The pytest plugin of natsdisc: registries for tests, on a real server or in memory.

Every pytest run loads it where natsdisc is installed. It lies outside of the package natsdisc so that such a
run imports neither natsdisc nor nats-py until a fixture is asked for.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from natsdisc import Connecting, ManualClock, MemoryStore
    from natsdisc.server import NatsServer


def pytest_configure(config: pytest.Config) -> None:
    """The async fixtures come from pytest-asyncio, where it is."""
    if config.pluginmanager.hasplugin("asyncio"):
        from . import with_asyncio as fixtures
    else:
        from . import without_asyncio as fixtures  # type: ignore[no-redef]
    config.pluginmanager.register(fixtures, "natsdisc-async")


@pytest.fixture(scope="session")
def natsdisc_server() -> Iterator[NatsServer]:
    """One nats-server with JetStream for all tests that ask for it."""
    from natsdisc.server import NatsServer

    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def natsdisc_url(request: pytest.FixtureRequest) -> str:
    """The server to test against: `NATSDISC_TEST_URL`, or one that is started for the tests."""
    url = os.environ.get("NATSDISC_TEST_URL")
    return url if url else str(request.getfixturevalue("natsdisc_server").url)


@pytest.fixture
def natsdisc_prefix(natsdisc_url: str) -> Iterator[str]:
    """The `bucket_prefix` of a registry of this test's own, deleted at its end."""
    from natsdisc.testing import delete_registry

    prefix = f"test{secrets.token_hex(8)}"
    yield prefix
    # In a thread: whatever event loop this one has stays as it is.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, delete_registry(natsdisc_url, prefix)).result()


@pytest.fixture
def natsdisc_connect(natsdisc_url: str, natsdisc_prefix: str) -> Callable[..., Connecting]:
    """`natsdisc.connect` to this test's own registry, in whatever event loop it is called."""
    import natsdisc

    return functools.partial(natsdisc.connect, natsdisc_url, bucket_prefix=natsdisc_prefix)


@pytest.fixture
def natsdisc_clock() -> ManualClock:
    """The time of `natsdisc_memory_store`: it stands still until the test moves it."""
    import natsdisc

    return natsdisc.ManualClock()


@pytest.fixture
def natsdisc_memory_store(natsdisc_clock: ManualClock) -> MemoryStore:
    """A registry in memory; its leases run in `natsdisc_clock`."""
    import natsdisc

    return natsdisc.MemoryStore(clock=natsdisc_clock)
