"""Another client writes rubbish over a key and its lease, again and again: its owner comes back."""

from __future__ import annotations

import asyncio
import secrets
import time

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, State, Transport, endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually

RUBBISH = b'{"type":"io.nats.jetstream.api.v1.consumer_info_response","error":{"code":404}}'
BACK_WITHIN = 5.0


@pytest.mark.parametrize("ttl", [1.5, 10.0])
async def test_the_owner_is_back_after_an_attack(ttl: float) -> None:
    prefix = "test" + secrets.token_hex(6)
    lost: list[natsdisc.Registration] = []
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=ttl, on_lost=lost.append) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as reader,
    ):
        mine = await service.register(EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr")))
        key = f"{prefix}_v1_instances.ns.comp.ep.{mine.instance_id:x}"
        attacker = await nats.connect(server.url)
        ends = time.monotonic() + max(3.0, ttl / 2)
        while time.monotonic() < ends:
            for subject in (f"$NATSDISC.LEASE.{key}", f"$KV.{key}"):
                await attacker.publish(subject, RUBBISH)
            await attacker.flush()
            await asyncio.sleep(0.3)
        await eventually(lambda: listed(reader, mine), timeout=BACK_WITHIN)
        [registration] = service.registrations
        await eventually(lambda: registration.state is State.ACTIVE, timeout=BACK_WITHIN)
        assert lost == []
        assert service.stats().reregistrations >= 1
        await attacker.close()


async def listed(reader: natsdisc.Discovery, instance: natsdisc.Instance) -> bool:
    return await reader.list(endpoints()) == [instance]


async def test_anothers_live_lease_over_the_same_id_still_means_lost() -> None:
    prefix = "test" + secrets.token_hex(6)
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, bucket_prefix=prefix, instance_id=1, lease_ttl=1) as one,
        natsdisc.connect(server.url, bucket_prefix=prefix, instance_id=1, lease_ttl=1) as two,
    ):
        mine = await one.register(EndpointSpec("ns", "comp", "ep", transport=Transport.nats("one")))
        await two.unregister(mine)
        await two.register(EndpointSpec("ns", "comp", "ep", transport=Transport.nats("two")))
        await eventually(lambda: one.registrations[0].state is State.LOST)
        assert two.registrations[0].state is State.ACTIVE
