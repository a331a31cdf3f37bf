"""Buckets as natsdisc makes them, and as administrators make or change them, on real servers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, State, Transport, UnsupportedServerError, endpoints
from natsdisc.server import NatsServer
from tests.rig import Cluster, eventually

PATIENCE = 30.0
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))


@pytest.fixture
def prefix() -> str:
    return "opt" + secrets.token_hex(6)


@pytest.fixture
async def client(nats_url: str, prefix: str) -> AsyncIterator[nats.NATS]:
    client = await nats.connect(nats_url)
    yield client
    await request(client, f"STREAM.DELETE.KV_{prefix}_v1_instances")
    await client.close()


async def request(client: nats.NATS, subject: str, body: Any = None) -> dict[str, Any]:
    payload = json.dumps(body).encode() if body is not None else b""
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{subject}", payload, timeout=5)).data)
    return answer


async def configuration(client: nats.NATS, prefix: str) -> dict[str, Any]:
    info = await request(client, f"STREAM.INFO.KV_{prefix}_v1_instances")
    config: dict[str, Any] = info["config"]
    return config


async def change(client: nats.NATS, prefix: str, **options: Any) -> None:
    """Change a bucket as an administrator does."""
    config = {**await configuration(client, prefix), **options}
    answer = await request(client, f"STREAM.UPDATE.KV_{prefix}_v1_instances", config)
    assert "error" not in answer, answer


async def make(client: nats.NATS, prefix: str, **options: Any) -> None:
    """Make a KV bucket that could hold leases, but for these options."""
    bucket = f"{prefix}_v1_instances"
    config = {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>", f"$NATSDISC.LEASE.{bucket}.>"],
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
        **options,
    }
    answer = await request(client, f"STREAM.CREATE.KV_{bucket}", config)
    assert "error" not in answer, answer


class TestNewBuckets:
    @pytest.mark.parametrize(("ttl", "storage"), [(10.0, "memory"), (None, "file")])
    async def test_storage_follows_the_first_registration(
        self, nats_url: str, client: nats.NATS, prefix: str, ttl: float | None, storage: str
    ) -> None:
        async with natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=ttl) as discovery:
            await discovery.register(SPEC)
            config = await configuration(client, prefix)
        assert (config["storage"], config["num_replicas"]) == (storage, 1)
        assert config["max_consumers"] == 100_000

    @pytest.mark.parametrize("replicas", [None, 1])
    async def test_a_cluster_keeps_three_copies_unless_told_otherwise(self, replicas: int | None) -> None:
        async with Cluster() as cluster:
            async with natsdisc.connect(cluster.urls, bucket_prefix="p", replicas=replicas) as discovery:
                await discovery.register(SPEC)
            client = await nats.connect(cluster.urls[0])
            assert (await configuration(client, "p"))["num_replicas"] == (replicas or 3)
            await client.close()

    async def test_an_account_that_requires_a_size_has_one(self, caplog: pytest.LogCaptureFixture) -> None:
        limits = "max_mem: 20M, max_file: 20M, mem_max_stream_bytes: 6M, max_bytes_required: true"
        users = "users: [{user: u, password: p}]"
        async with NatsServer(config=f"accounts {{ A {{ jetstream: {{{limits}}}, {users} }} }}") as server:
            with caplog.at_level(logging.WARNING):
                async with natsdisc.connect(server.url, user="u", password="p") as discovery:
                    await discovery.register(SPEC)
            assert "holds at most 4000000 bytes" in caplog.text

    async def test_an_account_without_memory_has_files(self) -> None:
        config = "accounts { A { jetstream: {max_mem: 0, max_file: 20M}, users: [{user: u, password: p}] } }"
        async with NatsServer(config=config) as server:
            async with natsdisc.connect(server.url, user="u", password="p", bucket_prefix="p") as discovery:
                await discovery.register(SPEC)
            client = await nats.connect(server.url, user="u", password="p")
            assert (await configuration(client, "p"))["storage"] == "file"
            await client.close()

    async def test_a_registration_without_a_lease_in_memory_is_warned_about_once(
        self, nats_url: str, client: nats.NATS, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
                await discovery.register(SPEC)
                assert "without a lease" not in caplog.text
                for name in "abc":
                    spec = EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))
                    await discovery.register(spec, lease_ttl=None)
        assert caplog.text.count("registrations without a lease are gone") == 1

    async def test_a_bucket_that_was_lost_is_made_again_as_it_was(
        self, nats_url: str, client: nats.NATS, prefix: str
    ) -> None:
        async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
            await discovery.register(SPEC)
            await request(client, f"STREAM.DELETE.KV_{prefix}_v1_instances")
            other = EndpointSpec("ns", "comp", "other", transport=Transport.nats("addr"))

            async def made_again() -> bool:
                # A renewal may be the first to find out; without it this one makes the bucket.
                await discovery.register(other, lease_ttl=None)
                info = await request(client, f"STREAM.INFO.KV_{prefix}_v1_instances")
                return "config" in info

            await eventually(made_again, timeout=PATIENCE)
            assert (await configuration(client, prefix))["storage"] == "memory"


class TestExistingBuckets:
    async def test_options_are_kept(self, nats_url: str, client: nats.NATS, prefix: str) -> None:
        await make(client, prefix, storage="file", max_bytes=10_000_000, description="ours")
        before = await configuration(client, prefix)
        async with natsdisc.connect(nats_url, bucket_prefix=prefix, storage="memory") as discovery:
            await discovery.register(SPEC)
            assert await configuration(client, prefix) == before

    @pytest.mark.parametrize(
        ("unsafe", "safe", "named"),
        [
            ({"max_age": 60 * 10**9}, {"max_age": 0}, "max_age"),
            ({"max_msgs": 1000}, {"max_msgs": -1}, "max_msgs"),
            ({"max_msgs_per_subject": 5}, {"max_msgs_per_subject": 1}, "history to 1"),
            ({"no_ack": True}, {"no_ack": False}, "no_ack"),
            (
                {"discard": "new", "discard_new_per_subject": True, "allow_msg_schedules": False},
                {"discard": "old", "discard_new_per_subject": False, "allow_msg_schedules": True},
                "discard_new_per_subject",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_an_unsafe_one_is_refused_until_it_is_put_right(
        self,
        nats_url: str,
        client: nats.NATS,
        prefix: str,
        unsafe: dict[str, Any],
        safe: dict[str, Any],
        named: str,
    ) -> None:
        await make(client, prefix, **unsafe)
        async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
            with pytest.raises(UnsupportedServerError, match=named):
                await discovery.register(SPEC)
            await change(client, prefix, **safe)

            async def accepted() -> bool:
                try:
                    await discovery.register(SPEC)
                except UnsupportedServerError:
                    return False
                return True

            await eventually(accepted, timeout=5.0)
            assert len(await discovery.list(endpoints())) == 1

    @pytest.mark.parametrize(
        "unsafe",
        [
            {"retention": "workqueue", "allow_msg_schedules": False},
            {"allow_msg_counter": True, "allow_msg_schedules": False, "allow_msg_ttl": False},
            {"subject_transform": {"src": "$KV.>", "dest": "$OTHER.>"}},
        ],
        ids=["retention", "counter", "transform"],
    )
    async def test_one_that_cannot_be_put_right_is_refused(
        self, nats_url: str, client: nats.NATS, prefix: str, unsafe: dict[str, Any]
    ) -> None:
        await make(client, prefix, **unsafe)
        async with natsdisc.connect(nats_url, bucket_prefix=prefix) as discovery:
            with pytest.raises(UnsupportedServerError):
                await discovery.register(SPEC)

    async def test_a_full_one_takes_nothing_new_and_loses_nothing(
        self, nats_url: str, client: nats.NATS, prefix: str
    ) -> None:
        await make(client, prefix, max_bytes=40_000)
        async with natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=2) as discovery:
            taken, refusals = 0, 0
            for number in range(200):
                spec = EndpointSpec("ns", "comp", f"ep{number}", transport=Transport.nats("addr"))
                try:
                    await asyncio.wait_for(discovery.register(spec), 0.5 if refusals else None)
                    taken += 1
                except (natsdisc.StoreUnavailableError, TimeoutError):
                    refusals += 1
                    if refusals == 2:
                        break
            assert refusals == 2
            assert taken > 20
            renewed = discovery.stats().renewals.count
            await eventually(lambda: discovery.stats().renewals.count > renewed + 3 * taken, timeout=PATIENCE)
            assert discovery.stats().fence_failures == 0
            assert len(await discovery.list(endpoints())) == taken

    async def test_one_that_becomes_unsafe_keeps_its_registrations_alive(
        self, nats_url: str, client: nats.NATS, prefix: str
    ) -> None:
        async with natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=2) as discovery:
            mine = await discovery.register(SPEC)
            await change(client, prefix, max_age=3600 * 10**9)
            renewed = discovery.stats().renewals.count
            await eventually(lambda: discovery.stats().renewals.count > renewed + 4, timeout=PATIENCE)
            assert [one.state for one in discovery.registrations] == [State.ACTIVE]
            assert await discovery.list(endpoints()) == [mine]
