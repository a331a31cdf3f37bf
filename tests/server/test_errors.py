"""What is told when the server, the user or the bucket is not as it should be."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import (
    EndpointSpec,
    InvalidValueError,
    PermissionDeniedError,
    StoreUnavailableError,
    Transport,
    UnsupportedServerError,
    endpoints,
)
from natsdisc.server import NatsServer
from tests.rig import server_binary

SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))
PATIENCE = 20.0

USERS = """
accounts {
  A {
    jetstream: enabled
    users: [
      { user: admin, password: pw }
      { user: reader, password: pw, permissions: {
          publish: ["$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>"]
          subscribe: ["_INBOX.>", "$JS.EVENT.ADVISORY.STREAM.CREATED.>"] } }
      { user: blind, password: pw, permissions: {
          publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
      { user: deaf, password: pw, permissions: { publish: [">"], subscribe: ["elsewhere.>"] } }
    ]
  }
}
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=USERS) as server:
        yield server


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[nats.NATS]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


async def test_no_server_is_told_at_the_first_refusal() -> None:
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1"):
        await natsdisc.connect("nats://127.0.0.1:1")


async def test_each_server_is_tried_once(nats_url: str) -> None:
    async with natsdisc.connect(["nats://127.0.0.1:1", nats_url]) as discovery:
        assert await discovery.list(endpoints("none", "none")) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:4222", "nats://host:port", "nats://"])
async def test_a_wrong_url(url: str) -> None:
    with pytest.raises(InvalidValueError):
        await natsdisc.connect(url)


@pytest.mark.parametrize(
    "urls", ["nats://user:secret@127.0.0.1:1", ["nats://secret@127.0.0.1:1"], "bad://secret@x"]
)
async def test_no_error_repeats_a_password(urls: str | list[str]) -> None:
    with pytest.raises(natsdisc.DiscoveryError) as caught:
        await natsdisc.connect(urls)
    assert "secret" not in str(caught.value)


async def test_bad_options_are_told_before_connecting() -> None:
    with pytest.raises(natsdisc.InvalidIdError):
        await natsdisc.connect("nats://127.0.0.1:1", instance_id=-1)
    with pytest.raises(InvalidValueError, match="expiry_grace"):
        await natsdisc.connect("nats://127.0.0.1:1", expiry_grace=-1)


async def test_an_unknown_option(nats_url: str) -> None:
    with pytest.raises(InvalidValueError, match="no_such_option"):
        await natsdisc.connect(nats_url, no_such_option=1)


async def test_bad_bucket_options_are_told_before_connecting() -> None:
    bad: list[dict[str, Any]] = [
        {"replicas": 0},
        {"storage": "paper"},
        {"bucket_prefix": "a.b"},
        {"tombstone_ttl": 0.5},
    ]
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            await natsdisc.connect("nats://127.0.0.1:1", **options)


async def test_wrong_credentials(guarded: NatsServer) -> None:
    with pytest.raises(PermissionDeniedError, match="credentials"):
        await natsdisc.connect(guarded.url, user="admin", password="wrong")
    with pytest.raises(PermissionDeniedError):
        await natsdisc.connect(guarded.url)


async def test_a_read_only_user_lists_and_watches_and_cannot_write(guarded: NatsServer) -> None:
    async with (
        natsdisc.connect(guarded.url, user="admin", password="pw") as admin,
        natsdisc.connect(guarded.url, user="reader", password="pw") as reader,
    ):
        mine = await admin.register(SPEC)
        assert await reader.list(endpoints()) == [mine]
        async with reader.list_and_watch(endpoints()) as events:
            assert await anext(events) == natsdisc.Added(mine)
        with pytest.raises(PermissionDeniedError, match=r"KV\.v1_instances"):
            await reader.register(EndpointSpec("ns", "comp", "other", transport=Transport.nats("addr")))
        with pytest.raises(PermissionDeniedError):
            await reader.unregister(mine)
        assert await admin.list(endpoints()) == [mine]
        assert reader.registrations == ()


async def test_a_user_who_may_not_make_consumers(guarded: NatsServer) -> None:
    async with (
        natsdisc.connect(guarded.url, user="admin", password="pw") as admin,
        natsdisc.connect(guarded.url, user="blind", password="pw") as blind,
    ):
        await admin.register(SPEC)
        with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
            await blind.list(endpoints())
        watch = blind.list_and_watch(endpoints())
        with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
            await watch.synced()
        with pytest.raises(PermissionDeniedError):
            await anext(watch)
        await watch.aclose()


async def test_a_user_who_may_not_listen_to_its_inbox(guarded: NatsServer) -> None:
    async with natsdisc.connect(guarded.url, user="deaf", password="pw") as deaf:
        with pytest.raises(PermissionDeniedError, match="inbox"):
            await deaf.register(SPEC)


async def test_refusals_on_a_connection_of_the_users(guarded: NatsServer) -> None:
    told: list[Exception] = []

    async def error_cb(error: Exception) -> None:
        told.append(error)

    client = await nats.connect(guarded.url, user="blind", password="pw", error_cb=error_cb)
    async with natsdisc.Discovery(natsdisc.JetStreamStore(client)) as blind:
        with pytest.raises(PermissionDeniedError):
            await blind.list(endpoints())
    assert told, "the user's own callback was taken away"
    await client.close()


async def test_a_server_without_jetstream() -> None:
    async with NatsServer(jetstream=False) as server, natsdisc.connect(server.url) as discovery:
        with pytest.raises(StoreUnavailableError, match="JetStream is not enabled"):
            await discovery.register(SPEC)
        with pytest.raises(StoreUnavailableError, match="JetStream is not enabled"):
            await discovery.list(endpoints())


async def test_a_stream_of_that_name_that_is_no_bucket(client: nats.NATS, nats_url: str) -> None:
    prefix = secrets.token_hex(6)
    await client.jetstream().add_stream(name=f"KV_{prefix}_v1_instances", subjects=[f"{prefix}.>"])
    async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
        for call in (discovery.register(SPEC), discovery.list(endpoints())):
            with pytest.raises(UnsupportedServerError, match="not a KV bucket"):
                await call
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")


async def test_a_bucket_with_history_is_refused(client: nats.NATS, nats_url: str) -> None:
    prefix = secrets.token_hex(6)
    await client.jetstream().create_key_value(bucket=f"{prefix}_v1_instances", history=5)
    async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
        for ttl in (10.0, None):
            with pytest.raises(UnsupportedServerError, match="history to 1"):
                await discovery.register(SPEC, lease_ttl=ttl)
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")


@pytest.mark.parametrize("ttl", [2.0, None])
async def test_a_plain_kv_bucket_is_used_and_extended_for_leases(
    client: nats.NATS, nats_url: str, ttl: float | None
) -> None:
    prefix = secrets.token_hex(6)
    kv = await client.jetstream().create_key_value(bucket=f"{prefix}_v1_instances")
    await kv.put("ns.comp.ep.rubbish", b"{}")
    async with natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=1) as discovery:
        mine = await discovery.register(SPEC, lease_ttl=ttl)
        assert await discovery.list(endpoints()) == [mine]
        config = (await client.jetstream().stream_info(f"KV_{prefix}_v1_instances")).config
        assert len(config.subjects or []) == (2 if ttl else 1)
        assert (await kv.get("ns.comp.ep.1")).value == natsdisc.wire.dumps(mine)
        await discovery.unregister(mine)
        assert await discovery.list(endpoints()) == []
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")


async def test_a_server_too_old_for_leases_works_without_them() -> None:
    async with NatsServer(server_binary("2.11.11")) as server, natsdisc.connect(server.url) as discovery:
        with pytest.raises(UnsupportedServerError, match=r"2\.12 or newer.* 2\.11\.11.*lease_ttl=None"):
            await discovery.register(SPEC)
        assert await discovery.list(endpoints()) == []
        mine = await discovery.register(SPEC, lease_ttl=None)
        async with discovery.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
            assert await anext(events) == natsdisc.Added(mine)
            await discovery.unregister(mine)
            assert await anext(events) == natsdisc.Removed(mine.id, natsdisc.RemovalReason.UNREGISTERED)


async def test_a_connection_the_user_closed(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    discovery = natsdisc.Discovery(natsdisc.JetStreamStore(client, bucket_prefix=secrets.token_hex(6)))
    watch = discovery.list_and_watch(endpoints())
    await watch.synced()
    waiting = asyncio.create_task(anext(watch))
    await client.close()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(natsdisc.ClosedError, match="connection was closed"):
            await waiting
    with pytest.raises(natsdisc.ClosedError, match="connection was closed"):
        await discovery.register(SPEC)
    await discovery.close()
