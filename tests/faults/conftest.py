"""Prints how long each fault was seen after its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.faults.kit import MEASURED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nats-py leaves connections of a server that hangs or refuses to the garbage collector."""
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves to the garbage collector is its own, and not the next one's."""
    yield
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("seconds from the end of a fault until all watchers saw the truth")
        for fault, seconds in MEASURED:
            terminalreporter.write_line(f"{seconds:8.2f}  {fault}")
