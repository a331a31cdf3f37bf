"""Where `connect` connects to, how long it tries, and what it never repeats."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time

import pytest

import natsdisc
from natsdisc import InvalidValueError, PermissionDeniedError, StoreUnavailableError, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream import connection as connections
from natsdisc.store.jetstream import known
from natsdisc.store.jetstream.client import OwnClient
from natsdisc.store.jetstream.urls import parse_servers
from tests.faults.states import Gate
from tests.rig import eventually

PATIENCE = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def works(discovery: natsdisc.Discovery) -> bool:
    return await discovery.list(endpoints("no", "such")) == []


async def test_the_environment_names_the_servers(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", f"nats://127.0.0.1:1, {nats_url}")
    async with natsdisc.connect() as discovery:
        assert await works(discovery)
    assert parse_servers("tls://here, there:1,[::1]") == [
        "tls://here:4222",
        "nats://there:1",
        "nats://[::1]:4222",
    ]
    monkeypatch.setenv("NATS_URL", "")
    assert parse_servers(None) == ["nats://127.0.0.1:4222"]


async def test_several_servers_in_one_text_or_a_list(nats_url: str) -> None:
    for servers in (f"nats://127.0.0.1:1,{nats_url}", ["nats://127.0.0.1:1", nats_url], (nats_url,)):
        async with natsdisc.connect(servers) as discovery:
            assert await works(discovery)


async def test_a_first_server_that_comes_later(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    for wait in (PATIENCE, math.inf):
        caplog.clear()
        connecting = asyncio.create_task(_connected(f"nats://127.0.0.1:{port}", wait))
        await eventually(lambda: "trying on" in caplog.text)
        async with NatsServer(port=port):
            discovery = await connecting
            assert await works(discovery)
            await discovery.close()
        waiting = [r for r in caplog.records if getattr(r, "natsdisc_event", "") == "waiting_for_server"]
        assert [record.levelno for record in waiting] == [logging.WARNING]


async def test_credentials_that_are_taken_later() -> None:
    gate = Gate()
    async with NatsServer(config=gate.config) as server:
        await gate.shut(server)
        with pytest.raises(PermissionDeniedError):
            await natsdisc.connect(gate.url(server.port))
        connecting = asyncio.create_task(_connected(gate.url(server.port), PATIENCE))
        await eventually(lambda: server.log.count("authentication error") >= 3, PATIENCE)
        await gate.open(server)
        discovery = await connecting
        assert await works(discovery)
        await discovery.close()


async def test_the_wait_has_an_end() -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="Connect call failed"):
        await natsdisc.connect(f"nats://127.0.0.1:{free_port()}", wait=1)
    assert 0.9 < time.monotonic() - started < PATIENCE


async def test_a_cancelled_wait_leaves_nothing() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await natsdisc.connect(f"nats://127.0.0.1:{free_port()}", wait=math.inf)


@pytest.mark.parametrize("wait", [-1, math.nan, "1", True])
async def test_a_wait_without_sense(wait: object) -> None:
    with pytest.raises(InvalidValueError, match="wait"):
        await natsdisc.connect("nats://127.0.0.1:1", wait=wait)  # type: ignore[arg-type]


async def _connected(url: str, wait: float) -> natsdisc.Discovery:
    return await natsdisc.connect(url, wait=wait)


@pytest.mark.parametrize(
    "servers",
    [
        "nats://user:sEc@ReT@127.0.0.1:1",
        "nats://user:sEc/ReT@127.0.0.1:1",
        "nats://user:sEc,ReT@127.0.0.1:1",
        "nats://user:sEc#ReT@127.0.0.1:1",
        "nats://user:sEc?ReT@127.0.0.1:1",
        "nats://user:sEcReT@127.0.0.1:99999",
        "nats://sEcReT@127.0.0.1:1",
        "user:sEc@ReT@127.0.0.1:1",
        "http://user:sEcReT@127.0.0.1:1",
        ["nats://user:sEc@ReT@127.0.0.1:1", "nats://user:sEc/ReT@127.0.0.1:1"],
        "nats://127.0.0.1:1,nats://user:sEc@ReT@127.0.0.1:1",
    ],
)
@pytest.mark.parametrize("wait", [0, 0.2])
async def test_no_password_is_repeated(
    servers: str | list[str], wait: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(natsdisc.DiscoveryError) as caught:
        await natsdisc.connect(servers, wait=wait)
    error: BaseException | None = caught.value
    text = caplog.text
    while error is not None:
        text += f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    assert not [
        part for part in ("sEc", "ReT", "user") if part in text.replace("user name", "").replace("user=", "")
    ]


async def test_an_unknown_nats_py_is_used_as_it_is(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known, "_METHODS", ("no_such_method",))
    monkeypatch.setattr(connections, "_warned_of_version", False)
    for _ in range(2):
        async with natsdisc.connect(nats_url) as discovery:
            assert await works(discovery)
            assert not isinstance(discovery._store._nc, OwnClient)  # type: ignore[attr-defined]
    assert caplog.text.count("this version of nats-py") == 1
    with pytest.raises(natsdisc.InsecureConnectionError, match="unknown"):
        await natsdisc.connect(nats_url.replace("nats://", "tls://"))
