"""What anybody who may write one key, or send to our inbox, cannot do to those who watch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.protocol.parser import Parser

import natsdisc
from natsdisc import Discovery, EndpointInstance, EndpointSpec, Transport, endpoints, wire
from natsdisc.store.jetstream.parser import install
from tests.raw import Raw
from tests.rig import eventually

PATIENCE = 20.0
OWN, USERS, PUBLIC = "our own connection", "a user's connection", "the public way"


class OtherParser(Parser):  # type: ignore[misc]
    """nats-py's parser as natsdisc does not know it."""


@contextlib.asynccontextmanager
async def discovery_on(way: str, url: str, prefix: str, **options: Any) -> AsyncIterator[Discovery]:
    """A Discovery on a connection of its own, or of a user's, or where natsdisc does not know nats-py."""
    if way == OWN:
        async with natsdisc.connect(url, bucket_prefix=prefix, **options) as discovery:
            yield discovery
        return
    client = await nats.connect(url, ping_interval=3600)  # a connection that is deaf stays so
    if way == PUBLIC:
        client._ps = OtherParser(client)
        assert install(client) is None
    store = natsdisc.JetStreamStore(client, bucket_prefix=prefix)
    try:
        async with Discovery(store, **options) as discovery:
            yield discovery
    finally:
        await client.close()


@pytest.fixture
async def prefix(nats_url: str) -> AsyncIterator[str]:
    prefix = secrets.token_hex(6)
    yield prefix
    client = await nats.connect(nats_url)
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


def spec(name: str, namespace: str = "bank") -> EndpointSpec:
    return EndpointSpec(namespace, "pay", name, transport=Transport.nats("honest"))


def block(*lines: bytes, first: bytes = b"NATS/1.0", end: bytes = b"\r\n\r\n") -> bytes:
    return b"\r\n".join([first, *lines]) + end


DEL, ROLLUP = b"KV-Operation: DEL", b"Nats-Rollup: sub"
UPDATED = b"Natsdisc-Updated: 1"
BLIND = (b"XNats-SchedulerNats-Scheduler: y", b"XNats-Schedule-NextNats-Schedule-Next: y")
# Headers of a schedule besides when and where: their first line, the rest, and how the block ends.
FORGERIES: dict[str, tuple[bytes, tuple[bytes, ...], bytes]] = {
    "as it should be": (b"NATS/1.0", (), b"\r\n\r\n"),
    "a delete": (b"NATS/1.0", (DEL,), b"\r\n\r\n"),
    "an update": (b"NATS/1.0", (UPDATED, b"Natsdisc-Leased: 1"), b"\r\n\r\n"),
    "of a marker": (b"NATS/1.0", (b"Nats-Marker-Reason: MaxAge",), b"\r\n\r\n"),
    "glued into a value": (b"NATS/1.0", (ROLLUP,), b"\r\nX: abcZZ"),
    "glued into an update": (b"NATS/1.0", (ROLLUP, UPDATED), b"\r\nNatsdisc-Leased: 1ZZ"),
    "glued into a delete": (b"NATS/1.0", (ROLLUP, b"X: y"), b"\r\nKV-Operation: DELZZ"),
    "glued and blinded": (b"NATS/1.0", (*BLIND, ROLLUP), b"\r\nX: abcZZ"),
    "glued into a name": (b"NATS/1.0", (ROLLUP, DEL), b"\r\nXZZ"),
    "glued into a name with blanks": (b"NATS/1.0", (ROLLUP,), b"\r\na bZZ"),
    "glued into a name that is no text": (b"NATS/1.0", (ROLLUP,), b"\r\n\xffZZ"),
    "glued into a continuation": (b"NATS/1.0", (ROLLUP, b"X: y"), b"\r\n yZZ"),
    "glued into the first line": (b"NATS/1.0 200 Fine", (ROLLUP,), b"\r\n"),
    "glued behind a blank line": (b"NATS/1.0", (ROLLUP, b"X: y", b"", b"Y: z"), b"\r\n\r\nZZ"),
    "glued behind a line feed": (b"NATS/1.0", (ROLLUP, b"X: y\nY: z"), b"\nZZ"),
    "glued behind a NUL": (b"NATS/1.0", (ROLLUP, b"X: y\x00"), b"\r\n\x00ZZ"),
    "glued behind a carriage return": (b"NATS/1.0", (ROLLUP, b"X: y"), b"\r\nX: \rZZ"),
    "with a rollup glued to its target": (b"NATS/1.0", (), b"ZZ"),
    "with another stamp before": (b"NATS/1.0", (DEL, b"X: Nats-Scheduler: %(own)s"), b"\r\n\r\n"),
    "with a stamp behind a line feed": (b"NATS/1.0", (DEL, b"X: y\nNats-Scheduler: %(own)s"), b"\r\n\r\n"),
    "with a stamp in small letters": (b"NATS/1.0", (DEL, b"nats-scheduler: %(own)s"), b"\r\n\r\n"),
    "on a subject that looks like a stamp": (b"NATS/1.0", (DEL,), b"\r\n\r\n"),
}


@pytest.mark.parametrize("way", [OWN, USERS, PUBLIC])
async def test_no_schedule_passes_as_its_keys_own_lease(nats_url: str, prefix: str, way: str) -> None:
    """The server stamps what a schedule writes, into whatever block of headers a client gave it."""
    forgeries = dict(FORGERIES)
    if way == PUBLIC:
        if getattr(nats.aio.client, "parse_email", None):
            pytest.skip("with fast-mail-parser, nats-py loses the stamp of a block that it cannot read")
        del forgeries["with a rollup glued to its target"]  # nats-py connects anew, again and again
    names = {what: f"e{number}" for number, what in enumerate(forgeries)}
    bucket = f"{prefix}_v1_instances"
    told: list[natsdisc.Event] = []

    async def follow(watching: natsdisc.Watch) -> None:
        async for event in watching:
            told.append(event)  # noqa: PERF401 (an event shows as soon as it came)

    async with (
        asyncio.timeout(60),
        Raw(nats_url) as raw,
        natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=3, instance_id=1) as owner,
        discovery_on(way, nats_url, prefix) as watcher,
        watcher.list_and_watch(endpoints()) as watching,
    ):
        mine = [await owner.register(spec(name)) for name in names.values()]
        following = asyncio.create_task(follow(watching))
        await watching.synced()
        accepted = 0
        for what, (first, lines, end) in forgeries.items():
            key = f"bank.pay.{names[what]}.1"
            victim = f"$NATSDISC.LEASE.{bucket}.{key}".encode()
            evil = wire.dumps(
                EndpointInstance("bank", "pay", names[what], 1, transport=Transport.nats("evil"))
            )
            lease = f"$NATSDISC.LEASE.{bucket}.shop.cart.{names[what]}.".encode()
            lease += b"Nats-Scheduler:\r" + victim if what.startswith("on a subject") else b"6"
            headers = block(
                b"Nats-Schedule: @at 2020-01-01T00:00:00Z",
                f"Nats-Schedule-Target: $KV.{bucket}.{key}".encode(),
                *(line.replace(b"%(own)s", victim) for line in lines),
                first=first,
                end=end,
            )
            answer = await raw.request(lease, b"" if DEL in lines else evil, headers)
            accepted += "seq" in answer
        assert accepted > len(forgeries) / 2, "the server refuses most of them: they show nothing"
        await eventually(lambda: watcher.stats().forged >= accepted, PATIENCE)

        async def all_back() -> bool:
            """The owner puts back what was overwritten."""
            listed = await watcher.list(endpoints())
            assert all(instance in mine for instance in listed)
            return len(listed) == len(mine)

        await eventually(all_back, PATIENCE)
        assert all("active" in repr(registration) for registration in owner.registrations)
        assert not watcher.stats().resyncs
        following.cancel()
        await asyncio.wait((following,))
    assert sorted(map(repr, told)) == sorted(repr(natsdisc.Added(instance)) for instance in mine)


ODD = [b"\x0b", b"\x0c", b"\r", b"\x00", b"\xff", b"\xc3\x28", b"\x1f"]


@pytest.mark.parametrize("way", [OWN, USERS])
async def test_a_subject_with_any_byte_and_a_value_of_any_size_stops_nobody(
    nats_url: str, prefix: str, way: str
) -> None:
    """nats-py waits for ever for the end of a line that it cannot read, once 4 kB are there."""
    async with (
        asyncio.timeout(60),
        Raw(nats_url) as raw,
        discovery_on(way, nats_url, prefix) as discovery,
        discovery.view(endpoints()) as view,
    ):
        mine = await discovery.register(spec("honest"))
        client = discovery._store._nc  # type: ignore[attr-defined]
        echoed = await client.subscribe(f"echo.{prefix}")
        sizes = [0, 10, 4000, 4070, 4096, 5000, 100_000, client.max_payload - 100]
        written = 0
        for odd in ODD:
            for size in sizes:
                written += 1
                subject = f"$KV.{prefix}_v1_instances.shop.pay.e{written}.".encode() + odd + b"x"[: size % 3]
                headers = block(b"X: y", end=b"\r\n\r\n"[: written % 4 + 1]) if written % 3 else b""
                raw.publish(subject, b"v" * (size - len(headers) if size > 4096 else size), headers)
        await raw.sync()
        assert raw.errors == []
        for payload in (b"1", b"x" * 100_000):
            await client.publish(f"echo.{prefix}", payload)
            assert (await echoed.next_msg(timeout=PATIENCE)).data == payload
        assert await discovery.list(endpoints()) == [mine]
        later = await discovery.register(spec("later"))
        await view.wait_for(2, timeout=PATIENCE)
        assert list(view.instances) == [mine, later]
        assert not discovery.stats().resyncs
        assert len(client._ps.buf) < 1 << 16
        assert client.stats["reconnects"] == 0
        await echoed.unsubscribe()


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("way", [OWN, USERS])
async def test_what_is_on_its_way_when_a_list_ends_stops_nobody(
    nats_url: str, prefix: str, way: str, size: int
) -> None:
    """Frames of a subscription that has just ended: nats-py would look at them."""
    async with (
        asyncio.timeout(60),
        Raw(nats_url) as raw,
        discovery_on(way, nats_url, prefix, lease_ttl=5) as discovery,
        discovery.view(endpoints("bank")) as view,
    ):
        mine = await discovery.register(spec("honest"))
        await view.wait_for(1, timeout=PATIENCE)
        client = discovery._store._nc  # type: ignore[attr-defined]
        echoed = await client.subscribe(f"echo.{prefix}")

        async def flood() -> None:
            for number in range(1 << 30):
                for _ in range(20):
                    number += 1
                    subject = f"$KV.{prefix}_v1_instances.shop.a.\x0bx{number % 300}"
                    raw.publish(subject.encode(), b"v" * size)
                await raw.sync()

        flooding = asyncio.create_task(flood())
        try:
            for turn in range(60):
                assert await discovery.list(endpoints("shop")) == []
                await client.publish(f"echo.{prefix}", b"%d" % turn)
                assert (await echoed.next_msg(timeout=PATIENCE)).data == b"%d" % turn
        finally:
            flooding.cancel()
            await asyncio.wait((flooding,))
        assert raw.errors == []
        assert client.stats["reconnects"] == 0
        assert not discovery.stats().resyncs
        assert list(view.instances) == [mine]
        await echoed.unsubscribe()


@pytest.mark.parametrize("way", [OWN, USERS, PUBLIC])
async def test_only_our_consumer_delivers(nats_url: str, prefix: str, way: str) -> None:
    """Somebody who reads our inbox can have JetStream deliver there, or send by hand."""
    async with (
        asyncio.timeout(60),
        Raw(nats_url) as raw,
        natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=1) as owner,
        discovery_on(way, nats_url, prefix) as discovery,
        discovery.view(endpoints("bank", "pay", "e")) as view,
    ):
        mine = await owner.register(spec("e"))
        await view.wait_for(1, timeout=PATIENCE)
        stream = f"KV_{prefix}_v1_instances"
        [consumer] = (await raw.request(f"$JS.API.CONSUMER.LIST.{stream}".encode()))["consumers"]
        inbox = consumer["config"]["deliver_subject"]
        received = consumer["delivered"]["consumer_seq"]
        evil = wire.dumps(EndpointInstance("shop", "pay", "e", 6, transport=Transport.nats("evil")))
        # By hand. The server refuses a reply that looks like a consumer's.
        ack = f"$JS.ACK.{stream}.{consumer['name']}.1.9.{received + 1}.1700000000000000000.0".encode()
        raw.publish(inbox.encode(), evil, reply=ack)
        raw.publish(inbox.encode(), evil, reply=b"_INBOX.x")
        raw.publish(inbox.encode(), evil, block(b"Status: 100"))
        raw.publish(inbox.encode(), b"")
        # By a consumer of somebody else's, which goes on at the sequence that ours would deliver next.
        parked = raw.subscribe(f"parked.{prefix}")
        subject = f"$KV.{prefix}_v1_instances.shop.pay.e.6"
        config = {
            "name": "forger",
            "deliver_subject": f"parked.{prefix}",
            "deliver_policy": "new",
            "filter_subject": subject,
            "ack_policy": "none",
        }

        async def made() -> bool:
            body = json.dumps({"stream_name": stream, "config": config}).encode()
            answer = await raw.request(f"$JS.API.CONSUMER.CREATE.{stream}.forger.{subject}".encode(), body)
            return "error" not in answer

        assert await made()
        for _ in range(received):
            await raw.request(subject.encode(), evil)
        raw.unsubscribe(parked)
        config["deliver_subject"] = inbox
        await eventually(made, PATIENCE)  # it can be told to deliver elsewhere when nobody listens any more
        await raw.request(subject.encode(), evil)
        # A request for flow control is answered where flow control is, and nowhere else.
        raw.subscribe(f"victim.{prefix}")
        raw.subscribe("$JS.FC.test.>")
        flow_control = block(first=b"NATS/1.0 100 FlowControl Request")
        raw.publish(inbox.encode(), b"", flow_control, f"victim.{prefix}".encode())
        raw.publish(inbox.encode(), b"", flow_control, f"$JS.FC.test.{prefix}".encode())
        await eventually(lambda: any(each[0].startswith(b"$JS.FC.test.") for each in raw.messages), PATIENCE)
        assert not [each for each in raw.messages if each[0].startswith(b"victim.")]
        later = await owner.update(mine, metadata={"zone": "b"})
        await view.wait_for(1, timeout=PATIENCE)
        await eventually(lambda: list(view.instances) == [later], PATIENCE)
        assert not discovery.stats().resyncs
        assert discovery.stats().invalid == 0


async def test_answers_are_awaited_where_nobody_can_guess(nats_url: str, prefix: str) -> None:
    """Somebody who saw one answer must not know where the next is awaited."""
    async with Raw(nats_url) as raw, natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
        raw.subscribe("_INBOX.>")
        await raw.sync()
        for number in range(5):
            await discovery.register(spec(f"e{number}"))
        await raw.sync()
        tokens = {bytes(message[0]).rpartition(b".")[2] for message in raw.messages}
        assert len(tokens) > 10
        assert all(len(token) >= 16 for token in tokens), tokens


async def test_unknown_internals_of_nats_py_are_left_alone(
    nats_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        asyncio.timeout(60),
        discovery_on(PUBLIC, nats_url, prefix) as discovery,
        discovery.list_and_watch(endpoints()) as events,
    ):
        await events.synced()
        mine = await discovery.register(spec("e"))
        assert await anext(events) == natsdisc.Added(mine)
        assert await discovery.list(endpoints()) == [mine]
        await discovery.unregister(mine)
        assert (await anext(events)).reason == "unregistered"  # type: ignore[union-attr]
        client: Client = discovery._store._nc  # type: ignore[attr-defined]
        assert type(client._ps) is OtherParser
    assert [record.natsdisc_event for record in caplog.records] == ["unknown_nats_py"]  # type: ignore[attr-defined]
