"""Leases on real servers: processes that die or stop, servers that go away, clients that interfere."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import nats
import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, RemovalReason, Removed, State, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import eventually, server_binary

from .service import running

PATIENCE = 30.0
VERSIONS = ["2.12.0", "2.14.0", None]


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version or "newest")
def server(request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """A server of each version that leases are promised for."""
    with NatsServer(server_binary(request.param)) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return "test" + secrets.token_hex(6)


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[nats.NATS]:
    client = await nats.connect(server.url)
    yield client
    await client.close()


def spec(name: str = "ep", namespace: str = "ns") -> EndpointSpec:
    return EndpointSpec(namespace, "comp", name, transport=Transport.nats("addr"))


async def next_event(watch: natsdisc.Watch) -> natsdisc.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


async def subjects(client: nats.NATS, prefix: str) -> dict[str, int]:
    """What the stream holds, by subject, leases included."""
    answer = await client.request(
        f"$JS.API.STREAM.INFO.KV_{prefix}_v1_instances", b'{"subjects_filter":">"}', timeout=5
    )
    found = json.loads(answer.data)["state"].get("subjects") or {}
    return {subject: count for subject, count in found.items() if not subject.endswith(".sweep")}


async def test_a_killed_process_expires_and_a_terminated_one_unregisters(
    server: NatsServer, prefix: str
) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        for number, reason in ((signal.SIGKILL, "expired"), (signal.SIGTERM, "unregistered")):
            async with running([server.url], prefix) as service:
                added = await next_event(events)
                assert isinstance(added, Added)
                assert added.instance.instance_id == service.instance_id
                service.signal(number)
                assert await next_event(events) == Removed(added.instance.id, RemovalReason(reason))
                await service.wait()


async def test_a_stopped_process_expires_and_comes_back_by_itself(server: NatsServer, prefix: str) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        running([server.url], prefix, ttl=1.5) as service,
        watcher.list_and_watch(endpoints()) as events,
    ):
        added = await next_event(events)
        assert isinstance(added, Added)
        service.signal(signal.SIGSTOP)
        assert await next_event(events) == Removed(added.instance.id, RemovalReason.EXPIRED)
        service.signal(signal.SIGCONT)
        assert await next_event(events) == added


async def test_without_faults_nothing_reaches_a_watcher(
    server: NatsServer, client: nats.NATS, prefix: str
) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        mine = await service.register(spec())
        assert await next_event(events) == Added(mine)
        [consumer] = await client.jetstream().consumers_info(f"KV_{prefix}_v1_instances")
        assert consumer.delivered is not None
        await eventually(lambda: service.stats().heartbeats >= 12, timeout=PATIENCE)  # four ttls
        [later] = await client.jetstream().consumers_info(f"KV_{prefix}_v1_instances")
        assert later.delivered is not None
        assert later.name == consumer.name
        assert later.delivered.consumer_seq == consumer.delivered.consumer_seq
        assert not events._queue._pending


@pytest.mark.parametrize("shift", [-3600.0, 3600.0, None], ids=["behind", "ahead", "stepping"])
async def test_the_wall_clock_of_the_client_is_never_read(
    server: NatsServer, prefix: str, shift: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = time.time, iter(range(0, 10**9, 977))
    monkeypatch.setattr(time, "time", lambda: real() + (next(steps) if shift is None else shift))
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        mine = await service.register(spec())
        assert await next_event(events) == Added(mine)
        await eventually(lambda: service.stats().heartbeats >= 6, timeout=PATIENCE)
        assert not events._queue._pending
        assert service.stats().fence_failures == 0
        await crash(service)
        assert await next_event(events) == Removed(mine.id, RemovalReason.EXPIRED)


@pytest.mark.parametrize("outage", [0.5, 4.0], ids=["within the ttl", "twice the ttl"])
@pytest.mark.parametrize(
    ("storage", "reason"), [("file", RemovalReason.EXPIRED), ("memory", RemovalReason.MISSING)]
)
async def test_a_server_outage_is_not_seen_while_everyone_lives(
    prefix: str, outage: float, storage: Literal["file", "memory"], reason: RemovalReason
) -> None:
    with NatsServer() as server:
        async with (
            natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2, storage=storage) as service,
            natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2, storage=storage) as dies,
            natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
            watcher.list_and_watch(endpoints()) as events,
        ):
            mine = [await service.register(spec(f"ep{number:03}")) for number in range(50)]
            ghost = await dies.register(spec("zz"))
            expected = {instance.id for instance in [*mine, ghost]}
            while expected:
                event = await next_event(events)
                assert isinstance(event, Added)
                expected.discard(event.instance.id)
            server.kill()
            await crash(dies)
            await asyncio.sleep(outage)  # the outage is the fault, not a way to wait for something
            await asyncio.to_thread(server.start)
            # The one that died meanwhile is the only event; everybody else is still there.
            assert await next_event(events) == Removed(ghost.id, reason)
            assert await watcher.list(endpoints()) == mine
            beats = service.stats().heartbeats
            await eventually(lambda: service.stats().heartbeats > beats + 100, timeout=PATIENCE)
            assert not events._queue._pending
            assert await watcher.list(endpoints()) == mine


async def test_what_a_plain_client_does_to_the_key_is_undone(
    server: NatsServer, client: nats.NATS, prefix: str
) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
    ):
        mine = await service.register(spec())
        kv = await client.jetstream().key_value(f"{prefix}_v1_instances")
        key = f"ns.comp.ep.{mine.instance_id:x}"
        other = natsdisc.wire.dumps(mine).replace(b"addr", b"evil")
        js = client.jetstream()
        faults: list[Callable[[], Any]] = [
            lambda: kv.delete(key),
            lambda: kv.purge(key),
            lambda: kv.put(key, b"rubbish"),
            lambda: kv.put(key, other),
            lambda: js.purge_stream(f"KV_{prefix}_v1_instances", subject=f"$KV.{prefix}_v1_instances.{key}"),
            lambda: js.purge_stream(f"KV_{prefix}_v1_instances"),
            lambda: js.delete_stream(f"KV_{prefix}_v1_instances"),
        ]
        for number, fault in enumerate(faults, 1):
            await fault()
            await eventually(lambda: service.stats().reregistrations == number, timeout=PATIENCE)  # noqa: B023
            assert service.stats().fence_failures >= number, "a renewal found out"
            assert await watcher.list(endpoints()) == [mine]
            assert service.registrations[0].state is State.ACTIVE
        await crash(service)
        await eventually(lambda: _emptied(watcher), timeout=PATIENCE)


async def _emptied(discovery: natsdisc.Discovery) -> bool:
    return await discovery.list(endpoints()) == []


async def test_a_forged_tombstone_is_not_believed(
    server: NatsServer, client: nats.NATS, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        mine = await service.register(spec(namespace="victim"))
        assert await next_event(events) == Added(mine)
        bucket = f"{prefix}_v1_instances"
        for operation in ({"KV-Operation": "DEL"}, {}):
            forged = watcher.stats().forged
            await client.jetstream().publish(
                f"$NATSDISC.LEASE.{bucket}.attacker.comp.ep.1",
                b"a value of the attacker's",
                headers={
                    "Nats-Schedule": f"@at {(datetime.now(UTC) + timedelta(seconds=0.1)).isoformat()}",
                    "Nats-Schedule-Target": f"$KV.{bucket}.victim.comp.ep.{mine.instance_id:x}",
                    **operation,
                },
            )
            await eventually(lambda: watcher.stats().forged > forged, timeout=PATIENCE)  # noqa: B023
            await eventually(lambda: listed(watcher, mine), timeout=PATIENCE)
        assert not events._queue._pending  # the watcher never lost it
        assert "forged" in caplog.text


async def listed(discovery: natsdisc.Discovery, instance: natsdisc.Instance) -> bool:
    return await discovery.list(endpoints()) == [instance]


async def test_after_close_no_lease_is_left(server: NatsServer, client: nats.NATS, prefix: str) -> None:
    async with natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=5) as service:
        for number in range(20):
            await service.register(spec(f"ep{number}"))
        held = await subjects(client, prefix)
        assert sum(subject.startswith("$NATSDISC.") for subject in held) == 20
    left = await subjects(client, prefix)
    assert not any(subject.startswith("$NATSDISC.") for subject in left)
    assert len(left) == 20  # the tombstones


async def test_tombstones_go_after_their_ttl(server: NatsServer, client: nats.NATS, prefix: str) -> None:
    async with natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1, tombstone_ttl=1) as service:
        unregistered = await service.register(spec("unregistered"))
        await service.register(spec("expires"))
        await service.unregister(unregistered)
        await crash(service)

    async def gone() -> bool:
        return await subjects(client, prefix) == {}

    await eventually(gone, timeout=PATIENCE)


async def test_a_crash_between_the_two_messages_leaves_nothing_to_see(
    server: NatsServer, client: nats.NATS, prefix: str
) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        mine = await service.register(spec())
        assert await next_event(events) == Added(mine)
        bucket: Any = service._store.bucket("v1_instances")
        await bucket._leases.publish(natsdisc.store.Lease("ns.comp.half.1", 0, 1.0, "crashed"))

        async def fired() -> bool:
            return f"$KV.{prefix}_v1_instances.ns.comp.half.1" in await subjects(client, prefix)

        await eventually(fired, timeout=PATIENCE)
        assert await watcher.list(endpoints()) == [mine]
        assert not events._queue._pending


async def test_a_plain_kv_client_never_sees_a_lease(
    server: NatsServer, client: nats.NATS, prefix: str
) -> None:
    async with natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=1) as service:
        first = await service.register(spec())
        kv = await client.jetstream().key_value(f"{prefix}_v1_instances")
        watcher = await kv.watchall()
        await eventually(lambda: service.stats().heartbeats >= 6, timeout=PATIENCE)
        await crash(service)
        seen: list[tuple[str, str | None]] = []
        while len(seen) < 2:
            entry = await watcher.updates(timeout=PATIENCE)
            if entry is not None:
                seen.append((entry.key, entry.operation))
        key = f"ns.comp.ep.{first.instance_id:x}"
        assert seen == [(key, None), (key, "DEL")]
        await watcher.stop()


async def test_many_leases_that_end_together(server: NatsServer, client: nats.NATS, prefix: str) -> None:
    count = 500  # the benchmarks do it with 10,000
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=6, tombstone_ttl=1) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix) as watcher,
        watcher.list_and_watch(endpoints()) as events,
    ):
        await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(count)))
        assert {type(await next_event(events)) for _ in range(count)} == {Added}
        await crash(service)
        gone = [await next_event(events) for _ in range(count)]
        assert {event.reason for event in gone if isinstance(event, Removed)} == {RemovalReason.EXPIRED}
        assert len({event.id for event in gone if isinstance(event, Removed)}) == count

        async def empty() -> bool:
            return await subjects(client, prefix) == {}

        await eventually(empty, timeout=PATIENCE)


async def test_close_is_bounded_while_the_server_is_away(prefix: str) -> None:
    with NatsServer() as server:
        discovery = await natsdisc.connect(server.url, bucket_prefix=prefix)
        await discovery.register(spec())
        server.kill()
        async with asyncio.timeout(PATIENCE):
            await discovery.close()
        assert discovery.registrations == ()
