"""A connection that the user made, with nats-py's own ways: what natsdisc says and does about its end."""

from __future__ import annotations

import asyncio
import logging

import nats
import pytest

import natsdisc
from natsdisc import ClosedError, EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.connection import close_connection
from natsdisc.store.jetstream.requester import Requester
from tests.faults.proxy import Proxy
from tests.faults.states import Certificates
from tests.rig import eventually

PATIENCE = 20.0
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


async def _ignore(_: Exception) -> None:
    pass


async def test_a_connection_that_nats_py_gives_up_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[ClosedError] = []
    async with NatsServer() as server:
        client = await nats.connect(
            server.url, max_reconnect_attempts=1, reconnect_time_wait=0.05, error_cb=_ignore
        )
        store = natsdisc.JetStreamStore(client)
        async with natsdisc.Discovery(store) as discovery:
            await discovery.register(SPEC)
            store.on_close(told.append)
            server.kill()
            await eventually(lambda: told, PATIENCE)
            for _ in range(2):
                with pytest.raises(ClosedError, match="no servers available"):
                    await discovery.list(endpoints())
        assert len(told) == 1
        assert "max_reconnect_attempts=-1" in str(told[0])
        errors = [
            record
            for record in caplog.records
            if getattr(record, "natsdisc_event", "") == "connection_closed"
        ]
        assert [record.levelno for record in errors] == [logging.ERROR]


async def test_a_dead_tls_link_is_left_although_nats_py_waits_for_its_goodbye() -> None:
    """Alone, nats-py waits 30 s and more for a TLS transport to close."""
    with Certificates() as certificates:
        async with NatsServer(config=certificates.config) as server, Proxy(server.port) as proxy:
            client = await nats.connect(
                f"tls://127.0.0.1:{proxy.port}",
                tls=certificates.context(),
                ping_interval=1,
                max_outstanding_pings=1,
                error_cb=_ignore,
            )
            store = natsdisc.JetStreamStore(client)
            async with natsdisc.Discovery(store) as discovery:
                await discovery.register(SPEC)
                proxy.half_open(new=True)
                await eventually(lambda: client.stats["reconnects"], 15)
                assert store.connection_counts["sockets_ended"] == 1
            await close_connection(client)


async def test_another_loop_is_told_where_the_store_belongs(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    store = natsdisc.JetStreamStore(client, bucket_prefix="loops")
    store.attach()
    assert await store.bucket("v1_instances").get("a.b.c.1") is None

    def elsewhere() -> None:
        asyncio.run(_get(store))

    with pytest.raises(natsdisc.WrongLoopError, match="event loop"):
        await asyncio.to_thread(elsewhere)
    assert await store.bucket("v1_instances").get("a.b.c.1") is None
    await store.detach()
    await client.close()


async def test_the_first_use_in_another_loop_is_told_too(nats_url: str) -> None:
    """The connection has a loop, whoever makes a store of it."""
    client = await nats.connect(nats_url)
    store = natsdisc.JetStreamStore(client, bucket_prefix="loops")
    with pytest.raises(natsdisc.WrongLoopError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(lambda: asyncio.run(_get(store)))
    await client.close()


async def _get(store: natsdisc.JetStreamStore) -> None:
    await store.bucket("v1_instances").get("a.b.c.1")


@pytest.mark.parametrize("whose", ["ours", "the user's"])
async def test_a_request_on_the_new_connection_is_not_failed_with_those_on_the_old(whose: str) -> None:
    async with NatsServer() as server, Proxy(server.port) as proxy:
        if whose == "ours":
            discovery = await natsdisc.connect(proxy.url)
            client = discovery._store._nc  # type: ignore[attr-defined]
        else:
            client = await nats.connect(proxy.url, reconnect_time_wait=0.05, error_cb=_ignore)
            discovery = natsdisc.Discovery(natsdisc.JetStreamStore(client))
        async with discovery:
            link = Requester(client)
            link.on_break(lambda: None)
            await asyncio.sleep(0.6)  # nats-py pauses before it connects again so soon
            proxy.stall()
            old = await link.send("$JS.API.INFO")
            proxy.cut()
            await proxy.heal()
            # The very turn in which the new connection is up, before anybody has looked.
            while not (client.stats["reconnects"] and link.up):  # noqa: ASYNC110
                await asyncio.sleep(0)
            proxy.delay(0.3)  # the answer comes after the next look
            new = await link.send("$JS.API.INFO")
            with pytest.raises(natsdisc.StoreUnavailableError):
                await old.answer(5)
            assert (await new.answer(5)).data
            await link.close()
        await close_connection(client)


async def test_a_listener_that_raises_keeps_nobody_from_hearing(nats_url: str) -> None:
    async with NatsServer() as server, Proxy(server.port) as proxy:
        client = await nats.connect(proxy.url, reconnect_time_wait=0.05, error_cb=_ignore)
        link = Requester(client)
        heard: list[str] = []

        def broken() -> None:
            raise ValueError("a bug")

        link.on_break(broken)
        link.on_break(lambda: heard.append("break"))
        link.on_reconnect(broken)
        link.on_reconnect(lambda: heard.append("reconnect"))
        proxy.cut()
        await proxy.heal()
        await eventually(lambda: heard == ["break", "reconnect"], PATIENCE)
        assert link.counts["callbacks_failed"] == 2
        await link.close()
        await close_connection(client)


async def test_the_look_at_a_connection_begins_again(nats_url: str, caplog: pytest.LogCaptureFixture) -> None:
    client = await nats.connect(nats_url)
    link = Requester(client)
    link.on_break(lambda: None)
    [looking] = [task for task in asyncio.all_tasks() if task.get_name() == "natsdisc-link"]
    looking.cancel()
    await eventually(lambda: link.counts["tasks_restarted"] == 1)
    assert "starting it again" in caplog.text
    assert (await link.request("$JS.API.INFO", timeout=5)).data
    await link.close()
    await client.close()
