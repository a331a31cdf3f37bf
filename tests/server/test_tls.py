"""TLS that was asked for: no server without it gets a connection or a byte of a credential."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, InsecureConnectionError, StoreUnavailableError, Transport, endpoints
from natsdisc.server import NatsServer
from tests.faults.proxy import Proxy
from tests.faults.states import Certificates
from tests.rig import eventually

PATIENCE = 20.0
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))
USER: dict[str, Any] = {"user": "user", "password": "SECRET"}
ACCOUNTS = "accounts { A { jetstream: enabled, users: [ { user: user, password: SECRET } ] } }\n"


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


class Eavesdropper:
    """Somebody on the way, who offers no TLS and keeps what clients send."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.port = 0
        self.info: dict[str, Any] = {}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Eavesdropper]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "proto": 1, "headers": True, "max_payload": 1_000_000}
        writer.write(b"INFO " + json.dumps({**info, "nonce": "abc", **self.info}).encode() + b"\r\n")
        try:
            while data := await reader.read(65536):
                self.heard.append(data)
                writer.write(b"PONG\r\n")
        except OSError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("url", "with_tls"),
    [
        ("tls://127.0.0.1:{}", False),
        ("tls://127.0.0.1:{}", True),
        ("nats://127.0.0.1:{}", True),
        ("127.0.0.1:{}", True),
        ("nats://127.0.0.1:1,tls://127.0.0.1:{}", False),
        ("tls://127.0.0.1:1,nats://127.0.0.1:{}", False),
    ],
)
async def test_nothing_is_sent_in_clear_text(certificates: Certificates, url: str, with_tls: bool) -> None:
    async with Eavesdropper().listening() as eavesdropper:
        options: dict[str, Any] = {"tls": certificates.context()} if with_tls else {}
        with pytest.raises(InsecureConnectionError, match="offers none") as refused:
            await natsdisc.connect(url.format(eavesdropper.port), **USER, **options)
        assert isinstance(refused.value, StoreUnavailableError)
        assert "SECRET" not in repr(refused.value)
        assert not eavesdropper.heard


async def test_nothing_is_sent_in_clear_text_in_a_reconnect(certificates: Certificates) -> None:
    context = certificates.context()
    async with (
        Eavesdropper().listening() as eavesdropper,
        NatsServer(config=ACCOUNTS + certificates.config) as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(f"nats://127.0.0.1:{proxy.port}", tls=context, **USER) as discovery,
    ):
        await discovery.register(SPEC)
        client = discovery._store._nc  # type: ignore[attr-defined]
        proxy._target = eavesdropper.port
        proxy.cut()
        await proxy.heal()
        await eventually(lambda: client.counts["refused_attempts"] >= 2, PATIENCE)
        assert not client.is_connected
        proxy._target = server.port
        await eventually(lambda: client.is_connected, PATIENCE)
        await eventually(lambda: _lists_one(discovery), PATIENCE)
        assert not eavesdropper.heard


async def test_a_server_that_another_one_named_has_to_offer_tls_too(certificates: Certificates) -> None:
    """A node without TLS is found through the cluster's, and the user's URL says nothing of TLS."""
    async with Eavesdropper().listening() as eavesdropper:
        named = f'cluster {{ name: c, listen: "127.0.0.1:-1" }}\n{ACCOUNTS}{certificates.config}'
        async with (
            NatsServer(config=named, jetstream=False) as server,
            natsdisc.connect(f"nats://127.0.0.1:{server.port}", tls=certificates.context(), **USER) as found,
        ):
            client = found._store._nc  # type: ignore[attr-defined]
            await client._process_info({"connect_urls": [f"127.0.0.1:{eavesdropper.port}"]})
            assert any(srv.uri.port == eavesdropper.port for srv in client._server_pool)
            server.kill()
            await eventually(lambda: client.counts["refused_attempts"] >= 2, PATIENCE)
            assert not eavesdropper.heard


async def test_a_server_that_leaves_it_to_the_client_is_spoken_to_in_tls(certificates: Certificates) -> None:
    config = f"{ACCOUNTS}allow_non_tls: true\n{certificates.config}"
    async with NatsServer(config=config) as server:
        url = f"tls://127.0.0.1:{server.port}"
        async with natsdisc.connect(url, tls=certificates.context(), **USER) as discovery:
            natsdisc.require_tls(discovery._store._nc)  # type: ignore[attr-defined]


async def test_a_certificate_that_nobody_vouches_for(certificates: Certificates) -> None:
    async with NatsServer(config=ACCOUNTS + certificates.config) as server:
        with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await natsdisc.connect(f"tls://127.0.0.1:{server.port}", tls=ssl.create_default_context(), **USER)


async def test_a_check_for_connections_that_users_make(certificates: Certificates, nats_url: str) -> None:
    plain = await nats.connect(nats_url)
    with pytest.raises(InsecureConnectionError, match="not encrypted"):
        natsdisc.require_tls(plain)
    await plain.close()
    with pytest.raises(InsecureConnectionError, match="not connected"):
        natsdisc.require_tls(plain)
    async with NatsServer(config=certificates.config) as server:
        encrypted = await nats.connect(f"tls://127.0.0.1:{server.port}", tls=certificates.context())
        natsdisc.require_tls(encrypted)
        await encrypted.close()


async def test_a_half_open_tls_link_is_left_in_time(certificates: Certificates) -> None:
    async with (
        NatsServer(config=certificates.config) as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(f"tls://127.0.0.1:{server.port}", tls=certificates.context()) as observer,
        natsdisc.connect(
            f"tls://127.0.0.1:{proxy.port}", tls=certificates.context(), lease_ttl=20
        ) as discovery,
    ):
        mine = await discovery.register(SPEC)
        async with observer.list_and_watch(endpoints()) as events:
            assert await anext(events) == natsdisc.Added(mine)
            client = discovery._store._nc  # type: ignore[attr-defined]
            proxy.half_open(new=True)
            await eventually(lambda: client.stats["reconnects"], 14)
            [registration] = discovery.registrations
            confirmed = discovery.stats().renewals.count
            await eventually(lambda: discovery.stats().renewals.count > confirmed, PATIENCE)
            assert registration.state is natsdisc.State.ACTIVE
            assert discovery.stats().reregistrations == 0


async def _lists_one(discovery: natsdisc.Discovery) -> bool:
    try:
        return len(await discovery.list(endpoints())) == 1
    except StoreUnavailableError:
        return False
