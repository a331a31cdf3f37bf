"""Fixtures and checks for every test."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from natsdisc.server import NatsServer

ENDING_TURNS = 20  # a task cancelled by the test's last line needs a few turns of the loop to end

settings.register_profile("dev", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("ci", deadline=None, print_blob=True, max_examples=200, derandomize=False)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nats-url",
        default=os.environ.get("NATSDISC_TEST_URL"),
        help="run the server tests against this server (NATSDISC_TEST_URL) and not an embedded one",
    )


@pytest.fixture(scope="session")
def nats_server(request: pytest.FixtureRequest) -> Iterator[NatsServer | None]:
    """One embedded server for all tests; None when the tests run against a server that is there."""
    if request.config.getoption("--nats-url"):
        yield None
    else:
        with NatsServer() as server:
            yield server


@pytest.fixture(scope="session")
def nats_url(request: pytest.FixtureRequest, nats_server: NatsServer | None) -> str:
    """The server to test against. It is shared: use names of your own in it."""
    if nats_server is None:
        return str(request.config.getoption("--nats-url"))
    return nats_server.url


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task of its loop running."""
    before = asyncio.all_tasks()
    yield
    for _ in range(ENDING_TURNS):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail("tasks left behind:\n" + "\n".join(sorted(map(repr, left))), pytrace=False)


@pytest.fixture(autouse=True)
def no_server_left() -> Iterator[None]:
    """Fail a test that leaves a nats-server running that it started (seen on Linux only)."""
    before = _server_children()
    yield
    left = _server_children() - before
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail(f"nats-server processes left behind: {sorted(left)}", pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def no_leftover_for_others() -> Iterator[None]:
    """Collect garbage after each file, or with NATSDISC_TEST_GC after each test (`nothing_left_unclosed`).

    A socket that a test dropped without closing it is then reported here, and not in whichever test runs when
    Python happens to collect it.
    """
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_left_unclosed() -> Iterator[None]:
    """With NATSDISC_TEST_GC set, find the test that drops what it should close. It is slow."""
    yield
    if os.environ.get("NATSDISC_TEST_GC"):
        gc.collect()


def _server_children() -> set[int]:
    pids: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread, or one of its children, ended meanwhile
            for pid in children.read_text().split():
                if "nats-server" in Path(f"/proc/{pid}/comm").read_text():
                    pids.add(int(pid))
    return pids
