"""The single steps of a sweep on a real server: marks, lent leases, and what they must not do to an owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import pytest_asyncio

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.errors import ConflictError
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.ghosts import Ghosts
from natsdisc.store.jetstream.inspector import Inspector
from natsdisc.store.jetstream.marks import Marks
from natsdisc.store.jetstream.stream_messages import StoredMessage
from natsdisc.testing import crash
from tests.rig import eventually

PATIENCE = 60.0
BUCKET = "v1_instances"
VALUES, LEASES = f"$KV.{BUCKET}.", f"$NATSDISC.LEASE.{BUCKET}."
FILES: dict[str, Any] = {"storage": "file", "tombstone_ttl": 1}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[NatsServer]:
    with NatsServer() as server:
        yield server


def spec(name: str, component: str = "comp") -> EndpointSpec:
    return EndpointSpec("ns", component, name, transport=Transport.nats("addr"))


async def only_value(admin: Admin) -> StoredMessage:
    [key] = await admin.keys(BUCKET)
    value = await Inspector(admin).last(BUCKET, key)
    assert value is not None
    return value


async def purge_leases(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    await client.jetstream().purge_stream(f"KV_{BUCKET}", subject=f"{LEASES}>")
    await client.close()


async def test_one_process_leaves_a_mark_and_the_others_see_what_it_did(server: NatsServer) -> None:
    async with await Admin.connect(server.url, {}) as admin:
        await admin.make(BUCKET)
        stream = admin.stream(BUCKET)
        await stream.look()
        one, other = Marks(admin.api, stream), Marks(admin.api, stream)
        since = time.monotonic() - 1
        assert await one.claim("", since=since, removes=False)
        assert not await other.claim("", since=since, removes=False)
        # A process that only lent leases does not keep another one from removing.
        assert await other.claim("", since=since, removes=True)
        assert not await one.claim("", since=since, removes=True)
        assert not await one.claim("", since=since, removes=False)
        assert await one.claim("ns.comp", since=since, removes=True)  # a mark for itself
        await other.void("")
        assert await one.claim("", since=since, removes=True)
        assert await admin.leases(BUCKET) == set()


async def test_a_lease_that_an_owner_has_is_not_shortened(server: NatsServer) -> None:
    async with natsdisc.connect(server.url, **FILES) as owner, await Admin.connect(server.url, {}) as admin:
        await owner.register(spec("lives"))
        value, stream = await only_value(admin), admin.stream(BUCKET)
        await stream.look()
        lease = await stream.last_message(value.subject.replace(VALUES, LEASES))
        with pytest.raises(ConflictError):
            await Ghosts(admin.api, stream, "1s").lend(value, 1.0)
        assert await stream.last_message(value.subject.replace(VALUES, LEASES)) == lease


async def test_nothing_is_lent_to_a_value_without_a_lease_that_came_meanwhile(server: NatsServer) -> None:
    async with await Admin.connect(server.url, {}) as admin:
        owner = await natsdisc.connect(server.url, **FILES)
        await owner.register(spec("dies"))
        before, stream = await only_value(admin), admin.stream(BUCKET)
        await crash(owner)
        await purge_leases(server)
        client = await nats.connect(server.url)
        await client.jetstream().publish(before.subject, before.data)
        await client.close()
        await stream.look()
        assert not await Ghosts(admin.api, stream, "1s").lend(before, 2.0)

        async def no_lease_is_left() -> bool:
            return await admin.leases(BUCKET) == set()

        await eventually(no_lease_is_left, PATIENCE)
        assert (await only_value(admin)).data == before.data


async def test_after_a_restart_a_value_without_a_lease_ends_within_seconds(server: NatsServer) -> None:
    lease_ttl = 60.0  # without a restart it would be lent a lease of 25 s
    dies = await natsdisc.connect(server.url, lease_ttl=lease_ttl, **FILES)
    await dies.register(spec("dies"))
    async with natsdisc.connect(server.url, lease_ttl=lease_ttl, **FILES) as stays:
        mine = await stays.register(spec("stays", "elsewhere"))
        await crash(dies)
        await purge_leases(server)
        server.kill()
        started = time.monotonic()
        await asyncio.to_thread(server.start)
        await eventually(lambda: stays.stats().swept == 1, PATIENCE)

        async def only_mine() -> bool:
            return await stays.list(endpoints()) == [mine]

        await eventually(only_mine, PATIENCE)
        assert time.monotonic() - started < 20.0
