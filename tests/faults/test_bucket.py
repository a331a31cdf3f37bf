"""The bucket, its messages or its consumers go away under the watches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from nats.js.errors import NotFoundError

import natsdisc
from natsdisc import (
    Added,
    EndpointSpec,
    RemovalReason,
    Removed,
    Transport,
    UnsupportedServerError,
    endpoints,
)
from natsdisc.server import NatsServer
from natsdisc.store.jetstream import following, reading
from tests.rig import eventually

from .kit import DEADLINE, STREAMS, Fleet, Follower, Plain, foreign
from .proxy import Proxy


@pytest.fixture
async def plain() -> AsyncIterator[Plain]:
    """A client of a server with plain KV buckets."""
    async with NatsServer() as server, Plain.connected(server.url) as plain:
        await plain.make_buckets(allow_msg_ttl=True, subject_delete_marker_ttl=60_000_000_000)
        yield plain


def url_of(plain: Plain) -> str:
    return str(plain.client.connected_url.geturl())


async def test_a_bucket_that_is_deleted_and_made_again() -> None:
    async with NatsServer() as server, Fleet(server.url, lease_ttl=3) as fleet:
        await fleet.put_foreign(range(20))
        await fleet.converged()
        await fleet.lose_everything()
        await fleet.plain.make_buckets()
        again = time.monotonic()
        await fleet.put_foreign(range(15, 35))
        await fleet.converged("bucket deleted and made again", again)


async def test_a_bucket_that_is_deleted_and_made_by_its_writers() -> None:
    async with NatsServer() as server, Fleet(server.url, lease_ttl=3) as fleet:
        await fleet.lose_everything()
        await fleet.converged("bucket deleted, made again by the heartbeats", time.monotonic())


async def test_keys_whose_tombstones_are_purged_while_the_watchers_are_cut_off() -> None:
    async with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Fleet(server.url, watch_urls=proxy.url) as fleet,
    ):
        await fleet.put_foreign(range(40))
        await fleet.converged()
        proxy.cut()
        ghosts = [foreign(number).id for number in range(20)]
        await fleet.delete_foreign(range(20))
        await asyncio.gather(*map(fleet.plain.vanish, ghosts))
        await proxy.heal()
        await fleet.converged("keys deleted and purged while cut off", time.monotonic())
        assert await fleet.removed() == set(map(str, ghosts))
        for follower in fleet.followers:
            assert set(follower.removed) == {id for id in ghosts if follower.query.matches(id)}


async def test_markers_of_plain_clients_are_events(plain: Plain) -> None:
    async with (
        natsdisc.connect(url_of(plain)) as discovery,
        discovery.list_and_watch(endpoints()) as events,
        asyncio.timeout(DEADLINE),
    ):
        await events.synced()
        instances = [foreign(number) for number in range(5)]
        for instance in instances:
            await plain.put(instance)
            assert await anext(events) == Added(instance)
        js, subjects = plain.js, [Plain.subject(instance.id) for instance in instances]
        await js.publish(subjects[0], headers={"Nats-Marker-Reason": "Purge", "Nats-TTL": "60s"})
        assert await anext(events) == Removed(instances[0].id, RemovalReason.UNREGISTERED)
        await js.publish(subjects[1], headers={"Nats-Marker-Reason": "Remove", "Nats-TTL": "60s"})
        assert await anext(events) == Removed(instances[1].id, RemovalReason.UNREGISTERED)
        await plain.delete(instances[2].id, "DEL")
        assert await anext(events) == Removed(instances[2].id, RemovalReason.UNREGISTERED)
        await plain.delete(instances[3].id, "PURGE")
        assert await anext(events) == Removed(instances[3].id, RemovalReason.UNREGISTERED)
        # MaxAge: the server's own marker at the end of a TTL.
        await plain.put(foreign(4, "short-lived"), Nats_TTL="1s")
        assert await anext(events) == Added(foreign(4, "short-lived"))
        assert await anext(events) == Removed(instances[4].id, RemovalReason.EXPIRED)
        marker = await js.get_last_msg("KV_v1_instances", subjects[4])
        assert (marker.headers or {})["Nats-Marker-Reason"] == "MaxAge"
        assert await discovery.list(endpoints()) == []


async def test_an_instance_that_comes_back_within_the_grace_was_never_away(plain: Plain) -> None:
    async with (
        natsdisc.connect(url_of(plain), expiry_grace=5) as discovery,
        discovery.list_and_watch(endpoints()) as events,
        asyncio.timeout(DEADLINE),
    ):
        await plain.put(foreign(0), Nats_TTL="1s")
        assert await anext(events) == Added(foreign(0))

        async def expired() -> bool:
            return await discovery.list(endpoints()) == []

        await eventually(expired)
        await plain.put(foreign(0))
        await plain.put(foreign(1))
        assert await anext(events) == Added(foreign(1))


async def test_an_admin_deletes_the_consumers() -> None:
    async with NatsServer() as server, Fleet(server.url) as fleet:
        async with fleet.churning():
            consumers = await fleet.plain.consumers()
            for stream, name in consumers:
                with contextlib.suppress(NotFoundError):  # a list ended meanwhile
                    await fleet.plain.js.delete_consumer(stream, name)
            deleted = time.monotonic()
        await fleet.converged("consumers deleted by an admin", deleted)
        assert len(consumers) >= 50
        await eventually(lambda: fleet.resyncs().total() >= 25, DEADLINE)
        assert not {stream for stream, _ in consumers} - set(STREAMS)


async def test_what_was_lost_without_a_trace_is_found_by_a_routine_look(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_CHECK_EVERY", 0.4)
    monkeypatch.setattr(following, "_READ_AGAIN_AFTER", 0.0)
    async with (
        natsdisc.connect(url_of(plain)) as discovery,
        discovery.list_and_watch(endpoints(foreign(0).namespace)) as events,
        asyncio.timeout(DEADLINE),
    ):
        await events.synced()
        informer = events._informer
        assert informer is not None
        put, lost = informer.put, asyncio.Event()

        def lose(entries: Sequence[tuple[str, bytes]]) -> None:
            informer.put = put  # type: ignore[method-assign]
            lost.set()

        informer.put = lose  # type: ignore[method-assign]
        await plain.put(foreign(0))
        await lost.wait()
        assert await anext(events) == Added(foreign(0))
        assert not discovery.stats().resyncs, "nobody is called stale for that"

        # Where nothing is written nothing is read again, however often somebody looks.
        looks = 0
        look = following.Following._has_changed

        async def counted(of: following.Following, now: reading.Reading) -> bool:
            nonlocal looks
            looks += 1
            return await look(of, now)

        monkeypatch.setattr(following.Following, "_has_changed", counted)
        await eventually(lambda: looks >= 2)
        consumers = await plain.consumers()
        # The stream goes on: only what is written below the filter counts, and no renewal of a lease does.
        for number in range(3, 9):
            await plain.js.publish("$KV.v1_instances.other", b"")
            await eventually(lambda: looks >= number)  # noqa: B023
        assert await plain.consumers() == consumers, "nothing has changed, and all was read again"


@pytest.mark.parametrize("how", ["purge", "rollup"])
async def test_what_goes_without_a_mark_is_found_by_a_routine_look(
    plain: Plain, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message says so to whoever watches another subject."""
    monkeypatch.setattr(following, "_CHECK_EVERY", 0.4)
    monkeypatch.setattr(following, "_READ_AGAIN_AFTER", 0.0)
    async with (
        natsdisc.connect(url_of(plain)) as discovery,
        discovery.list_and_watch(endpoints(foreign(0).namespace)) as events,
        asyncio.timeout(DEADLINE),
    ):
        await plain.put(foreign(0))
        assert await anext(events) == Added(foreign(0))
        if how == "purge":
            await plain.js.purge_stream("KV_v1_instances")
        else:
            await plain.js.publish("$KV.v1_instances.other.a.b.1", b"", headers={"Nats-Rollup": "all"})
        assert await anext(events) == Removed(foreign(0).id, RemovalReason.MISSING)

        async def no_other_consumer() -> bool:
            return len(await plain.consumers()) == 1

        await eventually(no_other_consumer)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"subjects": ["orders.>"]}, "not a KV bucket"),
        ({"subjects": ["$KV.v1_instances.>"], "max_msgs_per_subject": 5}, "5 values a key"),
    ],
    ids=["another kind of stream", "a history"],
)
async def test_a_bucket_that_becomes_unusable_and_is_put_right(
    plain: Plain, config: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with natsdisc.connect(url_of(plain), lease_ttl=None) as discovery:
        follower = Follower(discovery, endpoints())
        view = discovery.view(endpoints())
        await plain.put(foreign(0))
        await eventually(lambda: follower.live and len(view) == 1, DEADLINE)
        await plain.js.delete_stream("KV_v1_instances")
        await plain.js.add_stream(name="KV_v1_instances", **config)
        await eventually(lambda: reason in caplog.text, DEADLINE)
        with pytest.raises(UnsupportedServerError, match=reason):
            await discovery.list(endpoints())
        spec = EndpointSpec("ns", "comp", "mine", transport=Transport.http("http://a"))
        with pytest.raises(UnsupportedServerError, match=reason):
            await discovery.register(spec)
        before = view.age
        await eventually(lambda: view.age > before + 0.5, DEADLINE)
        await plain.js.delete_stream("KV_v1_instances")
        await plain.make_buckets()
        await plain.put(foreign(1))
        await discovery.register(spec)  # at once: what was cached is looked at again
        await eventually(lambda: len(follower.live) == 2 and len(view) == 2, DEADLINE)
        assert follower.outcome is None
        await follower.aclose()
