"""The pytest plugin as users have it: found by its entry point, in a pytest run of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nats

REGISTRIES = """
import natsdisc
import pytest
from natsdisc import EndpointSpec, Transport, endpoints

CHECKOUT = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("a"))


def test_the_server_is_real(natsdisc_server, natsdisc_url):
    print("pid", natsdisc_server.pid, "url", natsdisc_url)


@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio
async def test_on_a_server(natsdisc_discovery, natsdisc_connect, natsdisc_url, natsdisc_prefix, number):
    print("prefix", natsdisc_prefix)
    assert await natsdisc_discovery.list(endpoints()) == []
    mine = await natsdisc_discovery.register(CHECKOUT)
    async with natsdisc_connect(lease_ttl=2) as other:
        assert await other.list(endpoints()) == [mine]
    async with natsdisc.connect(natsdisc_url, bucket_prefix=natsdisc_prefix) as third:
        assert await third.list(endpoints()) == [mine]


@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio
async def test_in_memory(natsdisc_memory_discovery, natsdisc_memory_store, natsdisc_clock, number):
    assert await natsdisc_memory_discovery.list(endpoints()) == []
    crashing = natsdisc.Discovery(natsdisc_memory_store, lease_ttl=10)
    mine = await crashing.register(CHECKOUT)
    await natsdisc.testing.crash(crashing)
    await natsdisc_clock.advance(9)
    assert await natsdisc_memory_discovery.list(endpoints()) == [mine]
    await natsdisc_clock.advance(2)
    assert await natsdisc_memory_discovery.list(endpoints()) == []


@pytest.mark.asyncio(loop_scope="session")
async def test_in_a_loop_of_another_scope(natsdisc_connect):
    async with natsdisc_connect() as discovery:
        await discovery.register(CHECKOUT)
""".replace("import natsdisc\n", "import natsdisc\nimport natsdisc.testing\n", 1)

INERT = """
import sys


def test_nothing_is_imported():
    assert "pytest_natsdisc" in sys.modules
    assert not {"natsdisc", "nats", "orjson"} & sys.modules.keys()
"""

WITHOUT_ASYNCIO = """
import asyncio

from natsdisc import Discovery, endpoints


def test_on_a_server(natsdisc_connect):
    async def use():
        async with natsdisc_connect() as discovery:
            assert await discovery.list(endpoints()) == []

    asyncio.run(use())


def test_in_memory(natsdisc_memory_store):
    async def use():
        async with Discovery(natsdisc_memory_store) as discovery:
            assert await discovery.list(endpoints()) == []

    asyncio.run(use())


def test_that_needs_a_loop(natsdisc_discovery):
    raise AssertionError("not reached")


def test_that_needs_one_too(natsdisc_memory_discovery):
    raise AssertionError("not reached")
"""

SESSION_LOOP = """
import pytest


@pytest.fixture(scope="session")
def natsdisc_url():
    import os
    return os.environ["OUR_SERVER"]


@pytest.mark.asyncio(loop_scope="session")
async def test_with_a_fixture_of_that_scope(natsdisc_discovery, natsdisc_url, natsdisc_prefix):
    assert natsdisc_discovery.registrations == ()
    print("prefix", natsdisc_prefix)
    await natsdisc_discovery.register(
        __import__("natsdisc").ModelSpec("shop", "cart", "checkout", card={})
    )
"""


def run(tmp_path: Path, source: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_users.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    plain = {name: value for name, value in os.environ.items() if name != "NATSDISC_TEST_URL"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rP", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        env={**plain, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_test_has_a_registry_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, REGISTRIES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert len(set(re.findall(r"prefix (\w+)", done.stdout))) == 2
    [pid] = re.findall(r"pid (\d+) url nats://127", done.stdout)
    assert not Path(f"/proc/{pid}").exists()


def test_it_does_nothing_until_it_is_asked(tmp_path: Path) -> None:
    done = run(tmp_path, INERT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_pytest_asyncio_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, WITHOUT_ASYNCIO, "-p", "no:asyncio", "-W", "ignore::pytest.PytestConfigWarning")
    assert "2 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "natsdisc_discovery needs pytest-asyncio" in done.stdout
    assert "async with natsdisc_connect() as discovery" in done.stdout
    assert "natsdisc_memory_discovery needs pytest-asyncio" in done.stdout
    assert "async with natsdisc.Discovery(natsdisc_memory_store) as discovery" in done.stdout


async def test_nothing_stays_on_a_server_of_the_users(tmp_path: Path, nats_url: str) -> None:
    options = ("-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_mode=auto")
    done = run(tmp_path, SESSION_LOOP, *options, OUR_SERVER=nats_url)
    assert done.returncode == 0, done.stdout + done.stderr
    [prefix] = re.findall(r"prefix (\w+)", done.stdout)
    nc = await nats.connect(nats_url)
    streams = [info.config.name or "" for info in await nc.jetstream().streams_info()]
    await nc.close()
    assert not [name for name in streams if prefix in name]


LOOP_SCOPES = """
import natsdisc
import pytest
from natsdisc import EndpointSpec, Transport, endpoints

CHECKOUT = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("a"))


async def use(discovery):
    mine = await discovery.register(CHECKOUT)
    async with discovery.view(endpoints("shop")) as view:
        await view.wait_for(1, timeout=10)
    assert await discovery.list(endpoints()) == [mine]


@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio(loop_scope="module")
async def test_in_the_loop_of_the_module(natsdisc_discovery, natsdisc_memory_discovery, number):
    await use(natsdisc_discovery)
    await use(natsdisc_memory_discovery)


@pytest.mark.asyncio(loop_scope="session")
async def test_in_the_loop_of_the_session(natsdisc_discovery, natsdisc_memory_discovery):
    await use(natsdisc_discovery)
    await use(natsdisc_memory_discovery)


@pytest.mark.asyncio(loop_scope="class")
class TestInTheLoopOfTheClass:
    async def test_it(self, natsdisc_discovery):
        await use(natsdisc_discovery)

    async def test_again(self, natsdisc_discovery):
        await use(natsdisc_discovery)


@pytest.mark.asyncio
async def test_in_a_loop_of_its_own(natsdisc_discovery):
    await use(natsdisc_discovery)
"""

DEFAULT_LOOP_SCOPE = """
from natsdisc import endpoints


async def test_by_the_configuration(natsdisc_discovery, natsdisc_memory_discovery):
    assert await natsdisc_discovery.list(endpoints()) == []
    assert await natsdisc_memory_discovery.list(endpoints()) == []
"""


def test_a_discovery_is_in_the_loop_of_its_test(tmp_path: Path) -> None:
    done = run(tmp_path, LOOP_SCOPES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_loop_may_be_chosen_by_the_configuration(tmp_path: Path) -> None:
    options = ("-o", "asyncio_default_test_loop_scope=module", "-o", "asyncio_mode=auto")
    done = run(tmp_path, DEFAULT_LOOP_SCOPE, *options)
    assert done.returncode == 0, done.stdout + done.stderr
