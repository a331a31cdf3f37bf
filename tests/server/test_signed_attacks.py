"""Attacks on signed registrations by an administrator of a real server: none redirects a client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats
import nkeys
import pytest
from nats.protocol.parser import Parser

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, Registration, Signer, State, Transport, endpoints, wire
from natsdisc.keys import key_of
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.parser import WatchParser
from tests.rig import Cluster, eventually

PATIENCE = 20.0
BUCKET = "v1_instances"
STREAM = f"KV_{BUCKET}"
GOOD, EVIL = Transport.nats("good"), Transport.nats("evil")


def new_signer() -> Signer:
    return Signer(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))


@dataclass
class Attack:
    """An administrator's connection, and what it is about to forge."""

    client: Any
    port: int
    mine: EndpointInstance

    @property
    def key(self) -> str:
        return key_of(self.mine.id)

    @property
    def subject(self) -> str:
        return f"$KV.{BUCKET}.{self.key}"

    @property
    def forged(self) -> bytes:
        spec = EndpointSpec("shop", "cart", "checkout", transport=EVIL)
        return wire.dumps(spec.with_instance_id(self.mine.instance_id))

    async def stored(self) -> Any:
        return await self.client.jetstream().get_last_msg(STREAM, self.subject)

    async def put(self, value: bytes, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        await self.client.jetstream().publish(self.subject, value, headers=named or None)

    async def raw(self, subject: str, block: bytes, value: bytes) -> None:
        """Publish with any header block, as no library does."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await reader.readline()
        sizes = f"{len(block)} {len(block) + len(value)}"
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        writer.write(f"HPUB {subject} {sizes}\r\n".encode() + block + value + b"\r\nPING\r\n")
        async with asyncio.timeout(PATIENCE):
            while await reader.readline() != b"PONG\r\n":
                pass
        writer.close()
        await writer.wait_closed()


async def plain_put(attack: Attack) -> None:
    await attack.put(attack.forged)


async def with_the_headers_of_the_owner(attack: Attack) -> None:
    stored = await attack.stored()
    kept = {name: text for name, text in stored.headers.items() if name.startswith("Natsdisc-")}
    assert "Natsdisc-Signature" in kept
    await attack.put(attack.forged, **kept)


async def as_an_update_that_the_owner_would_adopt(attack: Attack) -> None:
    stored = await attack.stored()
    signature = stored.headers["Natsdisc-Signature"]
    await attack.put(attack.forged, Natsdisc_Updated="1", Natsdisc_Leased="1", Natsdisc_Signature=signature)


async def signed_with_another_key(attack: Attack) -> None:
    signature = new_signer().sign(BUCKET, attack.key, attack.forged, owner="a", time=2**45, until=0)
    await attack.put(attack.forged, Natsdisc_Signature=str(signature))


async def several_signatures(attack: Attack) -> None:
    signature = (await attack.stored()).headers["Natsdisc-Signature"]
    own = new_signer().sign(BUCKET, attack.key, attack.forged, owner="a", time=2**45, until=0)
    lines = f"NATS/1.0\r\nNatsdisc-Signature: {signature}\r\nNatsdisc-Signature: {own}\r\n\r\n"
    await attack.raw(attack.subject, lines.encode(), attack.forged)


async def a_schedule(attack: Attack) -> None:
    at = "Nats-Schedule: @at 2020-01-01T00:00:00Z"
    block = f"NATS/1.0\r\n{at}\r\nNats-Schedule-Target: {attack.subject}\r\n\r\n"
    await attack.raw(f"$NATSDISC.LEASE.{BUCKET}.shop.cart.other.1", block.encode(), attack.forged)


async def a_schedule_whose_stamp_is_hidden(attack: Attack) -> None:
    block = (
        f"NATS/1.0\r\nNats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: {attack.subject}\r\n"
        "XNats-SchedulerNats-Scheduler: y\r\nXNats-Schedule-NextNats-Schedule-Next: y\r\nX: abcZZ"
    )
    await attack.raw(f"$NATSDISC.LEASE.{BUCKET}.shop.cart.other.1", block.encode(), attack.forged)


async def a_new_stream(attack: Attack) -> None:
    js = attack.client.jetstream()
    info = await js.stream_info(STREAM)
    await js.delete_stream(STREAM)
    await js.add_stream(info.config)
    await attack.put(attack.forged)


WRITES = [
    plain_put,
    with_the_headers_of_the_owner,
    as_an_update_that_the_owner_would_adopt,
    signed_with_another_key,
    several_signatures,
]
ATTACKS = [
    *WRITES,
    a_schedule,
    a_schedule_whose_stamp_is_hidden,
    a_new_stream,
]


@asynccontextmanager
async def administrator(server: NatsServer) -> AsyncIterator[Any]:
    client = await nats.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_reader_is_redirected_for_a_moment(attack: Callable[[Attack], Awaitable[None]]) -> None:
    signer = new_signer()
    trusted = {"shop": [signer.public_key]}
    lost: list[Registration] = []
    async with (
        NatsServer() as server,
        administrator(server) as client,
        natsdisc.connect(
            server.url, lease_ttl=2, signer=signer, trusted=trusted, on_lost=lost.append
        ) as service,
        natsdisc.connect(server.url, trusted=trusted) as reader,
        natsdisc.connect(server.url) as plain,
        reader.view(endpoints("shop")) as view,
        plain.view(endpoints("shop")) as plain_view,
    ):
        mine = await service.register(EndpointSpec("shop", "cart", "checkout", transport=GOOD))
        await view.wait_for(1, timeout=PATIENCE)
        seen: set[Transport] = set()
        seen_without: set[Transport] = set()
        view.subscribe(lambda event: seen.update(instance.transport for instance in view.instances))
        plain_view.subscribe(
            lambda event: seen_without.update(each.transport for each in plain_view.instances)
        )
        for round in range(1, 3):
            ignored = reader.stats().untrusted + reader.stats().forged
            await attack(Attack(client, server.port, mine))
            await eventually(
                lambda: (
                    reader.stats().untrusted + reader.stats().forged > ignored  # noqa: B023
                    or service.stats().reregistrations >= round  # noqa: B023
                ),
                PATIENCE,
            )
            # Somebody who starts in this very moment sees nothing, or what is right.
            assert await reader.list(endpoints("shop")) in ([], [mine])
            assert {instance.transport for instance in view.instances} <= {GOOD}
            # The owner puts its own back, and the views of all are right again.
            await eventually(lambda: service.stats().reregistrations >= round, PATIENCE)  # noqa: B023
            await eventually(lambda: view.instances == (mine,) == plain_view.instances, PATIENCE)
            assert await reader.list(endpoints("shop")) == [mine]
        assert seen <= {GOOD}
        # The attack is one: without `trusted` it works.
        assert EVIL in seen_without or attack not in WRITES
        assert [(one.instance, one.state) for one in service.registrations] == [(mine, State.ACTIVE)]
        assert lost == []


async def test_removal_can_be_forced_and_passes() -> None:
    """As the documents say: a signature does not keep anybody from deleting."""
    signer = new_signer()
    trusted = {"shop": [signer.public_key]}
    async with (
        NatsServer() as server,
        administrator(server) as client,
        natsdisc.connect(server.url, lease_ttl=2, signer=signer, trusted=trusted) as service,
        natsdisc.connect(server.url, trusted=trusted, expiry_grace=0) as reader,
        reader.view(endpoints("shop")) as view,
    ):
        mine = await service.register(EndpointSpec("shop", "cart", "checkout", transport=GOOD))
        await view.wait_for(1, timeout=PATIENCE)
        await Attack(client, server.port, mine).put(b"", KV_Operation="DEL")
        await eventually(lambda: len(view) == 0, PATIENCE)
        await eventually(lambda: view.instances == (mine,), PATIENCE)


@pytest.mark.parametrize("parser", ["ours", "of nats-py"])
async def test_on_a_connection_that_a_user_made(parser: str) -> None:
    signer = new_signer()
    trusted = {"shop": [signer.public_key]}
    async with NatsServer() as server, administrator(server) as admin, administrator(server) as client:
        if parser == "of nats-py":  # as with a version that we do not know: the public way
            client._ps = type("Unknown", (Parser,), {})(client)
        store = natsdisc.JetStreamStore(client)
        async with (
            natsdisc.Discovery(store, lease_ttl=2, signer=signer, trusted=trusted) as service,
            natsdisc.Discovery(store, trusted=trusted) as reader,
            natsdisc.Discovery(store) as plain,
            reader.view(endpoints("shop")) as view,
        ):
            mine = await service.register(EndpointSpec("shop", "cart", "checkout", transport=GOOD))
            await view.wait_for(1, timeout=PATIENCE)
            assert isinstance(client._ps, WatchParser) is (parser == "ours")
            await with_the_headers_of_the_owner(Attack(admin, server.port, mine))
            await eventually(lambda: reader.stats().untrusted > 0, PATIENCE)
            await eventually(lambda: service.stats().reregistrations == 1, PATIENCE)
            assert await reader.list(endpoints()) == await plain.list(endpoints()) == [mine]
            assert view.instances == (mine,)


async def test_in_a_cluster() -> None:
    signer = new_signer()
    trusted = {"shop": [signer.public_key]}
    async with (
        Cluster() as cluster,
        natsdisc.connect(cluster.urls, replicas=3, lease_ttl=2, signer=signer, trusted=trusted) as service,
        natsdisc.connect(cluster.urls, trusted=trusted) as reader,
        reader.view(endpoints("shop")) as view,
    ):
        mine = await service.register(EndpointSpec("shop", "cart", "checkout", transport=GOOD))
        await view.wait_for(1, timeout=PATIENCE)
        mine = await service.update(mine, metadata={"a": 1})
        await eventually(lambda: view.instances == (mine,), PATIENCE)
        client = await nats.connect(cluster.urls)
        try:
            await plain_put(Attack(client, 0, mine))
            await eventually(lambda: service.stats().reregistrations == 1, PATIENCE)
        finally:
            await client.close()
        await eventually(lambda: reader.stats().untrusted == 1, PATIENCE)
        assert await reader.list(endpoints()) == [mine]
        assert view.instances == (mine,)
        await service.unregister(mine)
        await eventually(lambda: len(view) == 0, PATIENCE)
