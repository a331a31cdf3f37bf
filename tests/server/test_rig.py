"""The docker rig: its files are valid, and its server configurations run as they are, as plain processes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, Transport, endpoints
from tests.rig import eventually, server_binary

DOCKER = Path(__file__).resolve().parents[2] / "docker"
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


def compose(*arguments: str) -> str:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: nothing checks docker/compose.yaml here")
    done = subprocess.run(
        [program, "-f", str(DOCKER / "compose.yaml"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_compose_file_is_valid() -> None:
    compose("config", "-q")


def test_each_profile_has_its_services() -> None:
    merged = compose("config")
    profiles: dict[str, set[str]] = {}
    for service, body in re.findall(r"^  (\w+):\n((?:    .*\n)+)", merged, re.MULTILINE):
        listed = re.search(r"^    profiles:\n((?:    - \w+\n)+)", body, re.MULTILINE)
        for profile in re.findall(r"\w+", listed[1]) if listed else []:
            profiles.setdefault(profile, set()).add(service)
    assert profiles == {
        "single": {"nats"},
        "cluster": {"node1", "node2", "node3"},
        "demo": {"nats", "checkout", "prices", "search", "watch"},
        "test": {"nats", "test"},
    }


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@asynccontextmanager
async def servers(config: str, environments: Iterable[dict[str, str]]) -> AsyncIterator[None]:
    """Run a configuration of the rig with each of these environments."""
    processes = [
        await asyncio.create_subprocess_exec(
            str(server_binary(None)),
            "-c",
            str(DOCKER / "nats" / config),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.DEVNULL,
        )
        for environment in environments
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            await process.wait()


def environment(tmp_path: Path, name: str, port: int, monitor: int) -> dict[str, str]:
    return {
        "NATS_NAME": name,
        "NATS_HOST": "127.0.0.1",
        "NATS_PORT": str(port),
        "NATS_MONITOR": f"127.0.0.1:{monitor}",
        "NATS_STORE": str(tmp_path / name),
    }


async def works_on(urls: list[str], replicas: int) -> None:
    """Register and watch through each of these servers."""

    async def up() -> natsdisc.Discovery | None:
        try:
            discovery = await natsdisc.connect(urls, replicas=replicas)
        except natsdisc.StoreUnavailableError:
            return None
        try:
            await discovery.register(SPEC)
        except natsdisc.DiscoveryError:
            await discovery.close()
            return None
        return discovery

    discovery: natsdisc.Discovery = await eventually(up, timeout=60)
    async with discovery:
        for url in urls:
            async with natsdisc.connect(url) as other, other.list_and_watch(endpoints()) as events:
                assert await anext(events) == Added(discovery.registrations[0].instance)


async def test_the_single_server(tmp_path: Path) -> None:
    port, monitor = free_ports(2)
    async with servers("single.conf", [environment(tmp_path, "one", port, monitor)]):
        await works_on([f"nats://127.0.0.1:{port}"], replicas=1)


async def test_the_cluster(tmp_path: Path) -> None:
    ports = free_ports(9)
    routes = {f"NATS_ROUTE_{n}": f"nats://127.0.0.1:{port}" for n, port in enumerate(ports[6:], 1)}
    nodes = [
        {
            **environment(tmp_path, f"node{n}", ports[n - 1], ports[n + 2]),
            **routes,
            "NATS_CLUSTER_LISTEN": f"127.0.0.1:{ports[n + 5]}",
        }
        for n in (1, 2, 3)
    ]
    async with servers("cluster.conf", nodes):
        await works_on([f"nats://127.0.0.1:{port}" for port in ports[:3]], replicas=3)


def test_the_configurations_name_no_variable_that_compose_does_not_set() -> None:
    compose_file = (DOCKER / "compose.yaml").read_text()
    for config in ("single.conf", "cluster.conf"):
        for variable in re.findall(r"\$(NATS_\w+)", (DOCKER / "nats" / config).read_text()):
            assert f"{variable}: " in compose_file


def test_the_suite_runs_against_a_server_by_its_url(nats_url: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "tests/contract/test_discovery.py"),
            *("-k", "register_endpoint or list_by_all", "--nats-url", nats_url),
        ],
        cwd=DOCKER.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
