"""The fixtures that need an event loop, as pytest-asyncio makes them: in strict and in auto mode.

A Discovery belongs to one event loop, and a test says by `loop_scope` in which one it runs. An async fixture
has a scope of its own, which the test knows nothing of. So there is one for each scope, and the plain fixture
takes the test's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from natsdisc import Connecting, Discovery, MemoryStore

_LOOP_SCOPES = ("function", "class", "module", "package", "session")


async def _discovery(natsdisc_connect: Callable[..., Connecting]) -> AsyncIterator[Discovery]:
    async with natsdisc_connect() as discovery:
        yield discovery


async def _memory_discovery(natsdisc_memory_store: MemoryStore) -> AsyncIterator[Discovery]:
    import natsdisc

    async with natsdisc.Discovery(natsdisc_memory_store) as discovery:
        yield discovery


def _in_loop_of(scope: Any, function: Callable[..., AsyncIterator[Discovery]]) -> Any:
    async def fixture(*args: Any, **options: Any) -> AsyncIterator[Discovery]:
        async for discovery in function(*args, **options):
            yield discovery

    # pytest reads the arguments of a fixture from its signature.
    fixture.__wrapped__ = function  # type: ignore[attr-defined]
    return pytest_asyncio.fixture(loop_scope=scope)(fixture)


for _scope in _LOOP_SCOPES:
    globals()[f"_natsdisc_discovery_in_{_scope}"] = _in_loop_of(_scope, _discovery)
    globals()[f"_natsdisc_memory_discovery_in_{_scope}"] = _in_loop_of(_scope, _memory_discovery)


@pytest.fixture
def natsdisc_discovery(request: pytest.FixtureRequest) -> Any:
    """A Discovery in this test's own registry on a real server, in the event loop that the test runs in."""
    return request.getfixturevalue(f"_natsdisc_discovery_in_{_loop_scope_of(request)}")


@pytest.fixture
def natsdisc_memory_discovery(request: pytest.FixtureRequest) -> Any:
    """A Discovery in `natsdisc_memory_store`, in the event loop that the test runs in."""
    return request.getfixturevalue(f"_natsdisc_memory_discovery_in_{_loop_scope_of(request)}")


def _loop_scope_of(request: pytest.FixtureRequest) -> str:
    """Return the scope of the event loop that the test runs in."""
    marker = request.node.get_closest_marker("asyncio")
    scope = (marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")) if marker is not None else None
    return str(scope or request.config.getini("asyncio_default_test_loop_scope") or "function")
