"""A connection that `connect` made: nothing but `close` ends it, whatever the server says or files hold."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nkeys
import pytest

import natsdisc
from natsdisc import (
    EndpointSpec,
    ModelSpec,
    PayloadTooLargeError,
    PermissionDeniedError,
    State,
    StoreUnavailableError,
    Transport,
    endpoints,
)
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.client import OwnClient
from natsdisc.store.jetstream.requester import Requester
from tests.faults.proxy import Proxy
from tests.faults.states import Gate, leave_unsent, reload
from tests.rig import eventually
from tests.server.test_security import Key, credentials

PATIENCE = 20.0
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


def client_of(discovery: natsdisc.Discovery) -> OwnClient:
    client = discovery._store._nc  # type: ignore[attr-defined]
    assert isinstance(client, OwnClient)
    return client


def link_of(discovery: natsdisc.Discovery) -> Requester:
    link = discovery._store._requester  # type: ignore[attr-defined]
    assert isinstance(link, Requester)
    return link


def has_failed(client: OwnClient, times: int) -> bool:
    return client.counts["failed_attempts"] >= times


def has_reconnected(client: OwnClient, times: int) -> bool:
    return bool(client.stats["reconnects"] >= times)


async def is_well(discovery: natsdisc.Discovery) -> bool:
    """Whether everything that is registered is active, and a list says so."""
    if any(registration.state is not State.ACTIVE for registration in discovery.registrations):
        return False
    listed = {instance.id for instance in await discovery.list(endpoints())}
    return {SPEC.with_instance_id(discovery.instance_id).id} <= listed


class Issuer:
    """An operator with an account, and credentials files for its one user."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._operator = Key.make(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key.make(nkeys.PREFIX_BYTE_ACCOUNT)
        self._user = Key.make(nkeys.PREFIX_BYTE_USER)

    @property
    def config(self) -> str:
        unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        stores = ("mem_storage", "disk_storage", "streams", "consumer")
        limits = {**dict.fromkeys((*unlimited, *stores), -1), "wildcards": True}
        system = Key.make(nkeys.PREFIX_BYTE_ACCOUNT).public
        unstored = {name: limit for name, limit in limits.items() if name not in stores}
        account = self._operator.jwt("account", self._account.public, limits=limits)
        preload = {
            self._account.public: account,
            system: self._operator.jwt("account", system, limits=unstored),
        }
        accounts = "\n".join(f"{name}: {jwt}" for name, jwt in preload.items())
        return (
            f"operator: {self._operator.jwt('operator', self._operator.public)}\nsystem_account: {system}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{accounts}\n}}\n"
        )

    def issue(self, seconds: float) -> None:
        """Write credentials that expire after some seconds."""
        body: dict[str, Any] = {
            "iat": int(time.time()),
            "exp": int(time.time() + seconds),
            "iss": self._account.public,
            "sub": self._user.public,
            "name": "user",
            "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
        }
        body["jti"] = (
            base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        )
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        signature = nkeys.from_seed(bytearray(self._account.seed)).sign(text.encode())
        self.file.write_text(credentials(f"{text}.{_base64(signature)}", self._user))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_an_expired_jwt_whose_file_is_already_rotated(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "me.creds")
    issuer.issue(3)
    async with (
        NatsServer(config=issuer.config) as server,
        natsdisc.connect(server.url, user_credentials=str(issuer.file)) as discovery,
    ):
        issuer.issue(3600)
        await discovery.register(SPEC)
        await eventually(lambda: client_of(discovery).stats["reconnects"], PATIENCE)
        await eventually(lambda: is_well(discovery), PATIENCE)
        assert discovery._store.connection_counts["breaks"] == 1  # type: ignore[attr-defined]


async def test_a_credentials_file_that_is_empty_for_a_moment(tmp_path: Path) -> None:
    """nats-py itself reads such a file for ever, and the event loop stands still."""
    issuer = Issuer(tmp_path / "me.creds")
    issuer.issue(3600)
    async with (
        NatsServer(config=issuer.config) as server,
        natsdisc.connect(server.url, user_credentials=str(issuer.file)) as discovery,
    ):
        await discovery.register(SPEC)
        client = client_of(discovery)
        for content in ("", "-----BEGIN NATS USER JWT-----", "-----BEGIN NATS USER JWT-----\nnonsense\n"):
            issuer.file.write_text(content)
            failed = client.counts["failed_attempts"]
            await client._process_op_err(ConnectionError("a test"))
            await eventually(partial(has_failed, client, failed + 2), PATIENCE)
            issuer.issue(3600)
            await eventually(lambda: client.is_connected, PATIENCE)
        await eventually(lambda: is_well(discovery), PATIENCE)


async def test_credentials_that_are_refused_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "natsdisc.store")
    gate = Gate()
    async with (
        NatsServer(config=gate.config) as server,
        natsdisc.connect(gate.url(server.port), lease_ttl=20) as discovery,
    ):
        await discovery.register(SPEC)
        client = client_of(discovery)
        await gate.shut(server)
        await eventually(lambda: client.counts["refused_attempts"] >= 3, PATIENCE)
        with pytest.raises(StoreUnavailableError) as refused:
            await link_of(discovery).ready(0.1)
        assert isinstance(refused.value, PermissionDeniedError), "both what it is, and that it may pass"
        await gate.open(server)
        await eventually(lambda: client.is_connected, PATIENCE)
        await eventually(lambda: is_well(discovery), PATIENCE)
        events = [getattr(record, "natsdisc_event", "") for record in caplog.records]
        assert [
            event for event in events if event in ("disconnected", "reconnect_refused", "reconnected")
        ] == [
            "disconnected",
            "reconnect_refused",
            "reconnected",
        ]
        assert "good" not in caplog.text


async def test_one_subscription_too_many_disturbs_nobody_else() -> None:
    async with (
        NatsServer(config="max_subscriptions: 3") as server,
        natsdisc.connect(server.url) as discovery,
    ):
        await discovery.register(SPEC)
        views = [discovery.view(endpoints(f"ns{number}")) for number in range(4)]
        client = client_of(discovery)
        await eventually(lambda: client.counts["errors"], PATIENCE)
        await eventually(lambda: sum(view.synced and view.age < 3 for view in views) >= 2, PATIENCE)
        await discovery.register(EndpointSpec("ns", "comp", "other", transport=Transport.nats("addr")))
        assert client.stats["reconnects"] == 0
        for view in views:
            await view.aclose()
        assert await is_well(discovery)


async def test_no_subscription_left_for_the_answers_is_said_and_passes() -> None:
    async with (
        NatsServer(config="max_subscriptions: 2") as server,
        natsdisc.connect(server.url) as discovery,
    ):
        client = client_of(discovery)
        taken = [await client.subscribe(f"taken.{number}") for number in range(2)]
        await client.flush()
        with pytest.raises(StoreUnavailableError, match="subscriptions"):
            await link_of(discovery).request("$JS.API.INFO", timeout=5)
        await taken[0].unsubscribe()
        assert (await link_of(discovery).request("$JS.API.INFO", timeout=5)).data
        assert client.is_connected
        assert client.stats["reconnects"] == 0


@asynccontextmanager
async def limited(config: str) -> AsyncIterator[tuple[NatsServer, natsdisc.Discovery]]:
    async with (
        NatsServer(config=config) as server,
        natsdisc.connect(Gate().url(server.port)) as discovery,
    ):
        await discovery.register(SPEC)
        yield server, discovery


async def test_a_card_above_the_limit_of_the_account() -> None:
    gate = Gate(limits="limits { max_payload: 32KB }, ")
    async with limited(gate.config) as (_, discovery):
        with pytest.raises(PayloadTooLargeError):
            await discovery.register(ModelSpec("ns", "comp", "big", card="x" * 40_000))
        assert await is_well(discovery)
        assert client_of(discovery).counts["breaks"] == 0, "the server had told the limit"
        small = await discovery.register(ModelSpec("ns", "comp", "small", card="x" * 20_000))
        assert await discovery.list(natsdisc.models()) == [small]


async def test_a_limit_that_is_lowered_while_connected() -> None:
    gate = Gate("max_payload: 1MB")
    async with limited(gate.config) as (server, discovery):
        card = await discovery.register(ModelSpec("ns", "comp", "big", card="x" * 200_000))
        client = client_of(discovery)
        await reload(server, Gate("max_payload: 64KB").config)
        for size in (200_001, 200_002):
            with pytest.raises(PayloadTooLargeError):
                await discovery.update(card, card="y" * size)
        assert client.counts["breaks"] == 1, "it is sent once, and not again after a reconnect"
        await eventually(lambda: is_well(discovery), PATIENCE)
        assert (await discovery.update(card, card="small")).card == "small"
        # Raised again: the server tells only new connections, and one is made to hear it.
        await reload(server, gate.config)

        async def fits() -> bool:
            try:
                return len((await discovery.update(card, card="z" * 200_000)).card) == 200_000
            except PayloadTooLargeError:
                return False

        await eventually(fits, PATIENCE)
        assert client.counts["breaks"] == 1


async def test_headers_count_too() -> None:
    gate = Gate("max_payload: 64KB")
    async with limited(gate.config) as (_, discovery):
        client = client_of(discovery)
        headers = {"One": "x" * 100}
        with pytest.raises(PayloadTooLargeError):
            await link_of(discovery).send("nowhere", bytes(65_536 - 100), headers)
        pending = await link_of(discovery).send("nowhere", bytes(65_536 - 12 - 3 - 4 - 100), headers)
        assert ((await pending.answer(5)).headers or {}).get("Status") == "503"
        assert client.counts["breaks"] == 0


async def test_a_callback_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a bug of the user's")

    callbacks: dict[str, Any] = dict.fromkeys(
        ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb"), broken
    )
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(proxy.url, **callbacks) as discovery,
    ):
        await discovery.register(SPEC)
        client = client_of(discovery)
        for count in (1, 2):
            proxy.cut()
            await proxy.heal()
            await eventually(partial(has_reconnected, client, count), PATIENCE)
        await eventually(lambda: is_well(discovery), PATIENCE)
    assert "disconnected_cb raised" in caplog.text


async def test_a_pong_that_comes_too_late_does_not_make_deaf() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(proxy.url) as discovery,
    ):
        await discovery.register(SPEC)
        client = client_of(discovery)
        proxy.stall()
        with pytest.raises(TimeoutError):
            await client.flush(0.1)
        await proxy.heal()
        assert await is_well(discovery)
        assert client.counts["tasks_ended"] == client.counts["breaks"] == 0


@pytest.mark.parametrize("task", ["_reading_task", "_flusher_task", "_ping_interval_task"])
async def test_a_task_that_somebody_cancels_is_replaced(task: str) -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        await discovery.register(SPEC)
        client = client_of(discovery)
        getattr(client, task).cancel()
        await eventually(lambda: client.stats["reconnects"], PATIENCE)
        assert client.counts["tasks_ended"] == 1
        await eventually(lambda: is_well(discovery), PATIENCE)


async def test_reconnecting_that_breaks_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a library below raises what nobody expects, in the middle of a reconnect."""
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        await discovery.register(SPEC)
        client = client_of(discovery)
        left = [ZeroDivisionError("unexpected"), KeyError("unexpected")]
        connected = client._connect_command

        def command() -> bytes:
            if left:
                raise left.pop()
            return connected()

        monkeypatch.setattr(client, "_connect_command", command)
        await client._process_op_err(ConnectionError("a test"))
        await eventually(lambda: client.is_connected and not left, PATIENCE)
        await eventually(lambda: is_well(discovery), PATIENCE)


async def test_no_attempt_limit_but_the_users_own() -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        assert client_of(discovery).options["max_reconnect_attempts"] == -1
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, max_reconnect_attempts=1, reconnect_time_wait=0.05) as discovery,
    ):
        server.kill()
        await eventually(lambda: client_of(discovery).is_closed, PATIENCE)
        with pytest.raises(natsdisc.ClosedError, match="no servers available"):
            await discovery.list(endpoints())


async def test_a_dead_link_with_unsent_bytes_is_left() -> None:
    """nats-py waits without bound until they are sent."""
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(proxy.url, ping_interval=1) as discovery,
    ):
        client = client_of(discovery)
        await discovery.register(SPEC)
        await leave_unsent(client, proxy)
        for connection in proxy._connections:
            connection.deaf = True
        await eventually(lambda: client.counts["breaks"], PATIENCE)
        proxy.cut()
        await proxy.heal()
        await eventually(lambda: is_well(discovery), PATIENCE)


async def test_nothing_old_is_sent_after_a_reconnect() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(server.url) as witness,
        natsdisc.connect(proxy.url) as discovery,
    ):
        received = await client_of(witness).subscribe("old")
        await client_of(witness).flush()
        client = client_of(discovery)
        proxy.cut()
        await eventually(lambda: not client.is_connected, PATIENCE)
        await client.publish("old", b"a heartbeat of long ago")
        await proxy.heal()
        await eventually(lambda: client.is_connected and client.settled, PATIENCE)
        await client.publish("old", b"new")
        assert (await received.next_msg(5)).data == b"new"


async def test_many_who_wait_for_the_connection_cost_nothing() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(proxy.url) as discovery,
    ):
        proxy.cut()
        await eventually(lambda: not client_of(discovery).is_connected, PATIENCE)
        link = link_of(discovery)
        waiting = [asyncio.create_task(link.ready(PATIENCE)) for _ in range(1000)]
        await asyncio.sleep(0.1)
        used = time.process_time()
        await asyncio.sleep(1)  # what is measured
        assert time.process_time() - used < 0.3
        await proxy.heal()
        await asyncio.gather(*waiting)


async def test_credentials_come_from_callbacks_each_time() -> None:
    gate = Gate()
    passwords = ["good", "wrong", "wrong", "good"]
    asked: list[str] = []

    def password() -> str:
        asked.append(passwords[min(len(asked), len(passwords) - 1)])
        if len(asked) == 3:
            raise ValueError("no password at the moment")
        return asked[-1]

    async with NatsServer(config=gate.config) as server:
        url = f"nats://127.0.0.1:{server.port}"
        options: dict[str, Any] = {"user": "user", "password": password}
        async with natsdisc.connect(url, **options) as discovery:
            await discovery.register(SPEC)
            client = client_of(discovery)
            await client._process_op_err(ConnectionError("a test"))
            await eventually(lambda: client.stats["reconnects"], PATIENCE)
            await eventually(lambda: is_well(discovery), PATIENCE)
            assert asked == passwords


async def test_answers_are_delivered_although_somebody_cancelled_that() -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        link = link_of(discovery)
        assert (await link.request("$JS.API.INFO", timeout=5)).data
        link._mailbox._subscription._wait_for_msgs_task.cancel()
        await asyncio.sleep(0)  # a turn in which it ends
        await eventually(lambda: link._mailbox._subscription._wait_for_msgs_task.done())
        assert (await link.request("$JS.API.INFO", timeout=5)).data
        assert link.counts["tasks_restarted"] == 1


async def test_servers_that_are_named_no_more_are_forgotten() -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        client = client_of(discovery)
        await client._process_info({"connect_urls": ["127.0.0.1:1", "127.0.0.1:2"]})
        await client._process_info({"connect_urls": ["127.0.0.1:2"]})
        server.kill()

        def ports() -> set[int]:
            return {known.uri.port for known in client._server_pool}

        await eventually(lambda: ports() == {server.port, 2}, PATIENCE)
        await asyncio.to_thread(server.start)
        await eventually(lambda: client.is_connected, PATIENCE)


@pytest.mark.parametrize("size", [900_000, 4_000_000])
async def test_a_send_on_a_link_that_takes_no_bytes_ends_in_time(size: int) -> None:
    """nats-py waits without bound once it holds 2 MiB that are not sent, and swallows a cancellation."""
    async with (
        NatsServer(config="max_payload: 8MB") as server,
        Proxy(server.port) as proxy,
        natsdisc.connect(proxy.url, ping_interval=60) as discovery,
    ):
        link = link_of(discovery)
        proxy.stall()
        with pytest.raises(StoreUnavailableError, match="takes no"):
            for _ in range(50):
                async with asyncio.timeout(PATIENCE):
                    await link.send("nowhere", bytes(size), timeout=1)
        proxy.cut()
        await proxy.heal()
        await discovery.register(SPEC)
        await eventually(lambda: is_well(discovery), PATIENCE)
