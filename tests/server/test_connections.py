"""On connections that others own, on other event loops, and side by side."""

from __future__ import annotations

import asyncio
import secrets
import sys

import nats
import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, Transport, endpoints
from tests.rig import eventually

PATIENCE = 10.0


def spec(name: str) -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


async def test_a_connection_the_service_owns_is_left_as_it_was(nats_url: str) -> None:
    called: list[str] = []

    async def reconnected_cb() -> None:
        called.append("reconnected")

    client = await nats.connect(nats_url, reconnected_cb=reconnected_cb)
    before = {name: value for name, value in vars(client).items() if name.endswith("_cb")}
    attributes = set(vars(client))
    prefix = secrets.token_hex(6)
    store = natsdisc.JetStreamStore(client, bucket_prefix=prefix)
    async with natsdisc.Discovery(store) as one, natsdisc.Discovery(store) as two:
        mine = await one.register(spec("ep"))
        async with two.list_and_watch(endpoints()) as events:
            assert await anext(events) == Added(mine)
        await one.close()
        assert await two.list(endpoints()) == []
        again = await two.register(spec("again"))
        assert await two.list(endpoints()) == [again]
    assert {name: value for name, value in vars(client).items() if name.endswith("_cb")} == before
    assert set(vars(client)) == attributes
    assert client.is_connected
    assert not client._subs, "a subscription was left on the user's connection"

    async with natsdisc.Discovery(store) as three:  # the same store once more
        assert await three.list(endpoints()) == []
    echo = await client.subscribe("echo." + prefix)
    await client.publish("echo." + prefix, b"still working")
    assert (await echo.next_msg()).data == b"still working"
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


HOSTILE = {
    "no text": b"PUB %sa\xff.b.c.1 5\r\nhello",
    "blanks": b"PUB %sa\x0b\x0c.b.c.1 5\r\nhello",
    "a blank and headers": b"HPUB %sa\x0b.b.c.1 12 17\r\nNATS/1.0\r\n\r\nhello",
    "no header": b"HPUB %sa.b.c.1 1 6\r\nNhello",
    "half a header": b"HPUB %sa.b.c.1 8 13\r\nNATS/1.0hello",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("whose", ["ours", "the user's"])
async def test_a_message_that_nats_py_cannot_read_stops_nobody(nats_url: str, whose: str, what: str) -> None:
    prefix = secrets.token_hex(6)
    client = await nats.connect(nats_url, ping_interval=3600)  # it would hear nothing until then
    if whose == "ours":
        discovery = await natsdisc.connect(nats_url, bucket_prefix=prefix)
    else:
        discovery = natsdisc.Discovery(natsdisc.JetStreamStore(client, bucket_prefix=prefix))
    async with discovery, asyncio.timeout(PATIENCE):
        mine = await discovery.register(spec("ep"))
        reader, writer = await asyncio.open_connection(*nats_url.removeprefix("nats://").split(":"))
        await reader.readline()
        message = HOSTILE[what] % (b"$KV.%s_v1_instances." % prefix.encode())
        writer.write(b'CONNECT {"headers":true}\r\n' + message + b"\r\nPING\r\n")
        while await reader.readline() != b"PONG\r\n":
            pass
        writer.close()
        await writer.wait_closed()
        assert await discovery.list(endpoints()) == [mine]
        async with discovery.list_and_watch(endpoints()) as events:
            assert await anext(events) == Added(mine)
            await events.synced()
            changed = await discovery.update(mine, metadata={"zone": "a"})
            assert await anext(events) == Added(changed)
        assert discovery.stats().invalid == 2
        assert not discovery.stats().resyncs
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


async def test_a_store_is_used_again_while_its_last_user_leaves(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    prefix = secrets.token_hex(6)
    store = natsdisc.JetStreamStore(client, bucket_prefix=prefix)
    one = natsdisc.Discovery(store)
    await one.register(spec("one"))
    leaving = asyncio.create_task(one.close())
    while store._users:  # noqa: ASYNC110 (this very turn is meant)
        await asyncio.sleep(0)
    async with natsdisc.Discovery(store) as two:
        mine = await two.register(spec("two"))
        await leaving
        assert await two.list(endpoints()) == [mine]
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


async def test_two_registries_on_one_connection_do_not_mix(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    prefixes = [secrets.token_hex(6), secrets.token_hex(6)]
    stores = [natsdisc.JetStreamStore(client, bucket_prefix=prefix) for prefix in prefixes]
    async with natsdisc.Discovery(stores[0]) as one, natsdisc.Discovery(stores[1]) as two:
        mine, theirs = await one.register(spec("ep")), await two.register(spec("ep"))
        assert await one.list(endpoints()) == [mine]
        assert await two.list(endpoints()) == [theirs]
    for prefix in prefixes:
        await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop for Windows")
def test_on_uvloop(nats_url: str) -> None:
    import uvloop

    async def main() -> None:
        async with (
            asyncio.timeout(PATIENCE),
            natsdisc.connect(nats_url, bucket_prefix=secrets.token_hex(6)) as discovery,
            discovery.list_and_watch(endpoints()) as events,
        ):
            await events.synced()
            mine = await discovery.register(spec("ep"))
            assert await anext(events) == Added(mine)
            assert await discovery.list(endpoints()) == [mine]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_connect_can_be_awaited_and_entered(nats_url: str) -> None:
    discovery = await natsdisc.connect(nats_url)
    await discovery.close()
    async with natsdisc.connect(nats_url) as other:
        assert repr(other) == f"<Discovery {other.instance_id:x} 0 registrations>"
    assert repr(other) == f"<Discovery {other.instance_id:x} closed>"


async def test_listing_and_watching_leave_no_consumer(nats_url: str) -> None:
    prefix = secrets.token_hex(6)
    client = await nats.connect(nats_url)
    async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
        mine = await discovery.register(spec("ep"))
        for _ in range(20):
            assert await discovery.list(endpoints()) == [mine]
            async with discovery.list_and_watch(endpoints("ns")) as events:
                assert await anext(events) == Added(mine)

        async def all_gone() -> bool:
            return not await client.jetstream().consumers_info(f"KV_{prefix}_v1_instances")

        # Their ends are sent and not waited for; the server itself would clean up after 10 s.
        await eventually(all_gone, timeout=5)
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()


async def test_a_plain_kv_client_reads_what_is_registered(nats_url: str) -> None:
    prefix = secrets.token_hex(6)
    client = await nats.connect(nats_url)
    async with natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=255) as discovery:
        mine = await discovery.register(spec("ep"))
        kv = await client.jetstream().key_value(f"{prefix}_v1_instances")
        assert await kv.keys() == ["ns.comp.ep.ff"]
        assert (await kv.get("ns.comp.ep.ff")).value == natsdisc.wire.dumps(mine)
        watcher = await kv.watchall()
        entry = await watcher.updates()
        assert entry is not None
        assert (entry.key, entry.operation) == ("ns.comp.ep.ff", None)
        assert await watcher.updates() is None
        await discovery.unregister(mine)
        entry = await watcher.updates()
        assert entry is not None
        assert (entry.key, entry.operation) == ("ns.comp.ep.ff", "DEL")
        await watcher.stop()
    await client.jetstream().delete_stream(f"KV_{prefix}_v1_instances")
    await client.close()
