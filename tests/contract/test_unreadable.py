"""A value that cannot be read proves nothing about its owner, on both stores."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import natsdisc
from natsdisc import (
    EndpointInstance,
    EndpointSpec,
    ManualClock,
    MemoryStore,
    RemovalReason,
    Removed,
    Transport,
    endpoints,
    wire,
)
from natsdisc.keys import key_of
from natsdisc.server import NatsServer
from natsdisc.store import Write
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 20.0
KEPT = 15.0  # seconds, as documented
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


def of_another(instance: EndpointInstance) -> bytes:
    return wire.dumps(SPEC.with_instance_id(instance.instance_id ^ 1))


async def write_over(discovery: natsdisc.Discovery, instance: EndpointInstance, value: bytes) -> None:
    """As any KV client may."""
    bucket: Any = discovery._store.bucket("v1_instances")
    if isinstance(discovery._store, MemoryStore):
        bucket._write(Write(key_of(instance.id), value, owner="somebody"))
        return
    subject = bucket._stream.subject_prefix + key_of(instance.id)
    await (await bucket._api.publish(subject, value, {})).sequence()


@pytest.mark.parametrize("what", ["rubbish", "another identity"])
async def test_no_view_loses_an_instance_whose_owner_lives(
    registry: Registry, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    service, client = await registry.join(lease_ttl=2), await registry.join(expiry_grace=0)
    foreign = await registry.join()
    mine = await service.register(SPEC)
    async with client.view(endpoints()) as view:
        heard: list[natsdisc.Event] = []
        view.subscribe(heard.append)
        for number in range(3):
            value = b"rubbish" if what == "rubbish" else of_another(mine)
            await write_over(foreign, mine, value)
            await eventually(lambda: client.stats().invalid > number, PATIENCE)  # noqa: B023
            assert view.instances == (mine,)
            again = number + 1
            await eventually(lambda: service.stats().reregistrations >= again, PATIENCE)  # noqa: B023
        assert view.instances == (mine,)
        assert heard == []
    warnings = [record for record in caplog.records if record.__dict__.get("natsdisc_event") == "invalid"]
    assert [record.levelno for record in warnings] == [logging.WARNING]


async def test_after_a_time_it_is_missing() -> None:
    store = MemoryStore(clock=(clock := ManualClock()))
    async with natsdisc.Discovery(store, expiry_grace=0) as client:
        service = natsdisc.Discovery(store, lease_ttl=None)
        mine = await service.register(SPEC)
        async with client.view(endpoints()) as view:
            heard: list[natsdisc.Event] = []
            view.subscribe(heard.append)
            await write_over(client, mine, b"rubbish")
            await clock.advance(KEPT - 1)
            await write_over(client, mine, b"more of it")
            assert view.instances == (mine,)
            await clock.advance(0.5)
            assert heard == []
            async with client.view(endpoints("ns")) as late:
                assert late.instances == ()  # it has never seen what was there
            await clock.advance(1)
            assert heard == [Removed(mine.id, RemovalReason.MISSING)]
        await service.close()


async def test_an_owner_with_a_long_lease_has_longer() -> None:
    store = MemoryStore(clock=(clock := ManualClock()))
    async with natsdisc.Discovery(store, lease_ttl=60) as service:
        mine = await service.register(SPEC)
        async with service.view(endpoints()) as view:
            heard: list[natsdisc.Event] = []
            view.subscribe(heard.append)
            await write_over(service, mine, b"rubbish")
            await clock.advance(KEPT + 2)
            await clock.advance(60)
            assert heard == []
            assert view.instances == (mine,)


async def test_an_expiry_is_believed_all_the_same(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=0)
    mine = await service.register(SPEC)
    async with client.view(endpoints()) as view:
        heard: list[natsdisc.Event] = []
        view.subscribe(heard.append)
        await crash(service)
        await write_over(client, mine, b"rubbish")
        await eventually(lambda: heard, PATIENCE)
        assert heard == [Removed(mine.id, RemovalReason.EXPIRED)]


async def test_a_new_snapshot_keeps_it_and_the_time_runs_on() -> None:
    """On a server: the reader takes a new snapshot, in which the key has a value that cannot be read."""
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, lease_ttl=None, expiry_grace=0, storage="file") as service,
        natsdisc.connect(server.url, expiry_grace=0) as client,
    ):
        mine = await service.register(SPEC)
        async with client.view(endpoints()) as view:
            heard: list[natsdisc.Event] = []
            view.subscribe(heard.append)
            await write_over(service, mine, b"rubbish")
            await eventually(lambda: client.stats().invalid, PATIENCE)
            since = asyncio.get_running_loop().time()
            await asyncio.to_thread(server.restart)
            await eventually(lambda: client.stats().invalid > 1 and view.age < 2, PATIENCE)
            assert view.instances == (mine,)
            await eventually(lambda: heard, 2 * PATIENCE)
            assert heard == [Removed(mine.id, RemovalReason.MISSING)]
            assert asyncio.get_running_loop().time() - since > KEPT - 2
