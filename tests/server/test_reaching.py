"""Where a server is: several of them, IPv6, and websockets; the same in the library and on the command line."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import AsyncIterator

import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer

from .shell import Shell

SPEC = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("x"))
NOBODY = "nats://127.0.0.1:1"


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        return int(sock.getsockname()[1])


async def is_reached(url: str, shell: Shell) -> None:
    """By a program and by the command, with a registration each way."""
    async with natsdisc.connect(url, bucket_prefix=f"r{secrets.token_hex(4)}") as discovery:
        mine = await discovery.register(SPEC)
        async with discovery.view(endpoints()) as view:
            await view.wait_for(1, timeout=20)
        shell.environment |= {"NATS_URL": url, "NATSDISC_BUCKET_PREFIX": discovery_prefix(discovery)}
        outcome = await shell.run("ls", "--json")
        assert outcome.code == 0, outcome
        [shown] = json.loads(outcome.out)
        assert shown["endpoint"] == mine.endpoint


def discovery_prefix(discovery: natsdisc.Discovery) -> str:
    """The prefix of a registry that holds one registration."""
    [registration] = discovery.registrations
    return registration._bucket.name.partition("_")[0]


@pytest.fixture
async def ipv6() -> AsyncIterator[str]:
    try:
        port = free_port("::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    async with NatsServer(config=f'host: "::1"\nport: {port}'):
        yield f"nats://[::1]:{port}"
