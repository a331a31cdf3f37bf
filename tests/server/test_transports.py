"""Watches on the transports of nats-py, on our own connections and on users'."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.parser import WatchParser

CERTIFICATES = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"
PATIENCE = 10.0


@contextmanager
def plain(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with NatsServer() as server:
        yield server.url, {}


@contextmanager
def tls(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: nothing makes certificates")
    subprocess.run(["sh", str(CERTIFICATES), str(folder)], check=True, capture_output=True)
    config = f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key" }}'
    with NatsServer(config=config) as server:
        yield server.url, {"tls": ssl.create_default_context(cafile=folder / "ca.pem")}


@pytest.mark.parametrize("whose", ["ours", "the user's"])
@pytest.mark.parametrize("transport", [plain, tls], ids=lambda transport: transport.__name__)
async def test_a_watch(transport: Any, whose: str, tmp_path: Path) -> None:
    with transport(tmp_path) as (url, options):
        client = await nats.connect(url, **options)
        if whose == "ours":
            discovery = await natsdisc.connect(url, **options)
        else:
            discovery = Discovery(natsdisc.JetStreamStore(client))
        async with asyncio.timeout(4 * PATIENCE), discovery, discovery.view(endpoints()) as view:
            # A message that nats-py cannot read, and one that comes in many parts.
            mine = await discovery.register(
                EndpointSpec(
                    "ns", "comp", "e", transport=Transport.nats("a"), metadata={"big": "x" * 300_000}
                )
            )
            await view.wait_for(1, timeout=PATIENCE)
            echoed = await client.subscribe("echo")
            connection: Any = discovery._store._nc  # type: ignore[attr-defined]
            connection._transport.write(
                b"PUB $KV.v1_instances.ns.comp.\x0bx 5000\r\n" + b"v" * 5000 + b"\r\n"
            )
            await connection.flush()
            assert isinstance(connection._ps, WatchParser)
            for _ in range(3):
                assert await discovery.list(endpoints()) == [mine]
                token = secrets.token_bytes(100_000)
                await client.publish("echo", token)
                assert (await echoed.next_msg(timeout=PATIENCE)).data == token
            assert list(view.instances) == [mine]
            assert not discovery.stats().resyncs
            await echoed.unsubscribe()
        await client.close()
