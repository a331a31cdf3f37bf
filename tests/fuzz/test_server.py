"""A real server that holds and delivers what the fuzzer makes, for some seconds."""

from __future__ import annotations

import asyncio
import random
import secrets
import time

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from tests.raw import Raw
from tests.rig import LONG, eventually

from . import frames as fr

SECONDS = 60.0 if LONG else 4.0
PATIENCE = 20.0
# Subjects of a JetStream stream: without empty tokens, and without what ends a word of a client's line.
ODD = [bytes([byte]) for byte in range(1, 256) if bytes([byte]) not in (b" ", b"\t", b"\n", b".", b"*", b">")]
BLOCKS = [
    b"",
    *(
        b"NATS/1.0\r\n\r\n",
        b"N",
        b"NATS/1.0",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nX: \xff\r\n",
    ),
    *(
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n",
        b"NATS/1.0\r\nX: y",
        b"\r\n\r\n",
        b"\x00",
    ),
    *(
        b"NATS/1.0\r\nStatus: 503\r\n\r\n",
        b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n",
        b"NATS/1.0\r\n" + fr.STAMP,
    ),
]


@pytest.mark.parametrize("whose", ["ours", "the user's"])
async def test_a_server_full_of_odd_messages_stops_nobody(nats_url: str, whose: str) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    prefix = secrets.token_hex(6)
    # A connection that hears nothing would not notice for an hour.
    client = await nats.connect(nats_url, ping_interval=3600)
    if whose == "ours":
        discovery = await natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=5)
    else:
        discovery = natsdisc.Discovery(natsdisc.JetStreamStore(client, bucket_prefix=prefix), lease_ttl=5)
    async with (
        asyncio.timeout(SECONDS + 60),
        Raw(nats_url) as raw,
        discovery,
        discovery.view(endpoints()) as view,
    ):
        mine = await discovery.register(EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr")))
        await view.wait_for(1, timeout=PATIENCE)
        echoed = await client.subscribe(f"echo.{prefix}")
        end, turn = time.monotonic() + SECONDS, 0
        while time.monotonic() < end:
            turn += 1
            for _ in range(20):
                token = b"".join(draw.choices(ODD, k=draw.choice([1, 2, 5])))
                subject = f"$KV.{prefix}_v1_instances.ns.{draw.choice(['comp.ep', 'x'])}.".encode() + token
                size = draw.choice([0, 1, 40, 3990, 4060, 4096, 4200, draw.randrange(20_000)])
                raw.publish(subject, draw.randbytes(size), draw.choice(BLOCKS))
            if turn % 20 == 0:
                raw.publish(subject, b"x" * (client.max_payload - 8), b"NATS/1.0")
            await raw.sync()
            await client.publish(f"echo.{prefix}", b"%d" % turn)
            assert (await echoed.next_msg(timeout=PATIENCE)).data == b"%d" % turn
            if turn % 10 == 0:
                assert await discovery.list(endpoints("ns", "comp")) == [mine]
        assert raw.errors == []
        later = await discovery.register(EndpointSpec("ns", "comp", "ep2", transport=Transport.nats("addr")))
        await eventually(lambda: list(view.instances) == [mine, later], PATIENCE)
        assert not discovery.stats().resyncs
        assert all("active" in repr(registration) for registration in discovery.registrations)
        assert client.stats["reconnects"] == 0
        await echoed.unsubscribe()
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()
