"""The fixtures that need an event loop, where there is no pytest-asyncio: they say so."""

from __future__ import annotations

from typing import NoReturn

import pytest

_MESSAGE = (
    "{} needs pytest-asyncio (pip install pytest-asyncio); without it, use {} in the test's own event loop: "
    "async with {} as discovery"
)


@pytest.fixture
def natsdisc_discovery() -> NoReturn:
    """Says what to do."""
    pytest.fail(
        _MESSAGE.format("natsdisc_discovery", "natsdisc_connect", "natsdisc_connect()"), pytrace=False
    )


@pytest.fixture
def natsdisc_memory_discovery() -> NoReturn:
    """Says what to do."""
    use = "natsdisc.Discovery(natsdisc_memory_store)"
    pytest.fail(_MESSAGE.format("natsdisc_memory_discovery", "natsdisc_memory_store", use), pytrace=False)
