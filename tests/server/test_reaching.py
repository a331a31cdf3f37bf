"""Where a server is: one of several, on IPv6, behind a websocket; for a program and for the command."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer

from .shell import Shell

SPEC = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("x"))


def free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def several() -> Iterator[str]:
    with NatsServer() as server:
        yield f"nats://127.0.0.1:1, {server.url}"


@contextlib.contextmanager
def on_ipv6() -> Iterator[str]:
    try:
        port = free_port("::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with NatsServer(host="::", port=port):
        yield f"nats://[::1]:{port}"


@contextlib.contextmanager
def behind_a_websocket() -> Iterator[str]:
    if importlib.util.find_spec("aiohttp") is None:
        pytest.skip("nats-py needs aiohttp for websockets: pip install nats-py[aiohttp]")
    port = free_port("127.0.0.1")
    with NatsServer(config=f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}"):
        yield f"ws://127.0.0.1:{port}"


# nats-py calls aiohttp in a way that is deprecated.
@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")
@pytest.mark.parametrize("where", [several, on_ipv6, behind_a_websocket])
async def test_a_server_is_reached(
    where: Callable[[], contextlib.AbstractContextManager[str]], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"r{secrets.token_hex(4)}"
    with where() as url:
        monkeypatch.setenv("NATS_URL", url)
        async with natsdisc.connect(bucket_prefix=prefix) as discovery:
            mine = await discovery.register(SPEC)
            async with discovery.view(endpoints()) as view:
                await view.wait_for(1, timeout=20)
                assert view.instances == (mine,)
            shell.environment |= {"NATS_URL": url, "NATSDISC_BUCKET_PREFIX": prefix}
            outcome = await shell.run("ls", "--json", command=[sys.executable, "-m", "natsdisc.cli"])
            assert outcome.code == 0, outcome
            assert [one["endpoint"] for one in json.loads(outcome.out)] == ["checkout"]
