"""A client that was written from docs/protocol.md alone, `tests/examples/client.js`, beside natsdisc."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import natsdisc
from natsdisc import EndpointSpec, RemovalReason, Removed, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream import messages
from natsdisc.testing import crash
from tests.programs import EXAMPLES, PATIENCE
from tests.rig import eventually, node_modules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
TTL = 2


class NodeClient:
    """The client as a process; `lines` is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().strip())

    def key(self) -> str:
        return next((line.split()[1] for line in self.lines if line.startswith("registered ")), "")


@asynccontextmanager
async def node_client(server: NatsServer) -> AsyncIterator[NodeClient]:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(EXAMPLES / "client.js"),
        server.url,
        "shop",
        "cart",
        "from node",
        str(TTL),
        env={**os.environ, "NODE_PATH": str(node_modules())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    client = NodeClient(process)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await reading
        await process.wait()


async def test_each_sees_the_other() -> None:
    node_modules()
    async with NatsServer() as server, natsdisc.connect(server.url, lease_ttl=TTL) as discovery:
        gone: list[Removed] = []
        async with (
            discovery.view(endpoints("shop", "cart", "from node")) as view,
            node_client(server) as node,
        ):
            view.subscribe(lambda event: gone.append(event) if isinstance(event, Removed) else None)
            await eventually(node.key, PATIENCE)
            await view.wait_for(1, timeout=PATIENCE)
            [instance] = view.instances
            assert node.key() == f"shop.cart.from=20node.{instance.instance_id:x}"
            assert instance.transport == Transport.nats("shop.cart.from node")

            # It hears of a registration, a drain and an orderly leave, and of a crash.
            spec = EndpointSpec("shop", "cart", "py", transport=Transport.http("http://a"))
            mine = await discovery.register(spec)
            key = f"shop.cart.py.{mine.instance_id:x}"
            await eventually(lambda: f"added {key} serving" in node.lines, PATIENCE)
            await discovery.unregister(mine)
            await eventually(lambda: f"removed {key} unregistered" in node.lines, PATIENCE)
            other = await natsdisc.connect(server.url, lease_ttl=TTL)
            theirs = await other.register(spec)
            await crash(other)
            await eventually(
                lambda: f"removed shop.cart.py.{theirs.instance_id:x} expired" in node.lines, PATIENCE
            )

            # By now it has renewed its own lease several times. A change of another client is kept.
            assert gone == []
            changed = await discovery.update(instance, metadata={"zone": "a"})
            await eventually(lambda: view.get(instance.id) == changed, PATIENCE)
            await eventually(lambda: node.lines.count(f"added {node.key()} serving") == 2, PATIENCE)

            node.process.send_signal(signal.SIGTERM)
            await eventually(
                lambda: [event.reason for event in gone] == [RemovalReason.UNREGISTERED], PATIENCE
            )
            assert await node.process.wait() == 0


async def test_its_lease_ends_with_it() -> None:
    node_modules()
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        gone: list[Removed] = []
        async with discovery.view(endpoints("shop")) as view, node_client(server) as node:
            view.subscribe(lambda event: gone.append(event) if isinstance(event, Removed) else None)
            await view.wait_for(1, timeout=PATIENCE)
            node.process.send_signal(signal.SIGKILL)
            await eventually(lambda: [event.reason for event in gone] == [RemovalReason.EXPIRED], PATIENCE)


def test_every_header_is_on_the_page() -> None:
    page = PAGE.read_text()
    ours = [
        text for text in vars(messages).values() if isinstance(text, str) and text.startswith("Natsdisc-")
    ]
    assert len(ours) >= 5
    for header in ours:
        assert f"| `{header}` |" in page
