"""`natsdisc prune` and `doctor --audit` on real servers, while somebody else writes what nobody should."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import natsdisc
import natsdisc.acl
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from natsdisc.entry import BUCKETS
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.inspector import Inspector
from natsdisc.testing import crash
from tests.rig import eventually
from tests.server.raw import Raw, headers
from tests.server.shell import PATIENCE, Shell, ended

BUCKET = "v1_instances"
LATER = "@at 2099-01-01T00:00:00Z"


@pytest.fixture
async def server(shell: Shell) -> AsyncIterator[NatsServer]:
    async with NatsServer() as server:
        async with await Admin.connect(server.url, {}) as admin:
            for bucket in BUCKETS.values():
                await admin.make(bucket)
        shell.environment["NATS_URL"] = server.url
        yield server


def spec(number: int) -> EndpointSpec:
    return EndpointSpec("bank", "pay", f"e{number}", transport=Transport.nats("b"))


def strip(raw: Raw, count: int) -> None:
    """Take the leases off: the end of a schedule may name any schedule of the stream."""
    for number in range(count):
        lease = f"Nats-Scheduler: $NATSDISC.LEASE.{BUCKET}.bank.pay.e{number}.1"
        raw.publish(
            f"$KV.{BUCKET}.shop.cart.x.6",
            b"",
            headers("KV-Operation: DEL", lease, "Nats-Schedule-Next: purge"),
        )
    raw.sync()


async def pruned(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    outcome = await shell.run("prune", *arguments, "--json")
    assert outcome.code == 0, outcome
    fields: list[dict[str, Any]] = json.loads(outcome.out)
    return fields


async def test_nobody_alive_is_removed_while_leases_are_taken_away(server: NatsServer, shell: Shell) -> None:
    """Twenty messages take the leases off, 20 times a second, for as long as prune runs."""
    count = 20
    async with natsdisc.connect(server.url, instance_id=1, lease_ttl=12) as owner:
        for number in range(count):
            await owner.register(spec(number))
        async with owner.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
            for _ in range(count):
                assert isinstance(await anext(events), natsdisc.Added)
            with Raw(server.port) as raw:
                strip(raw, count)
                process = await shell.start("prune", "bank/*", "--yes", "--json", "--wait", "20s")
                while process.returncode is None:
                    strip(raw, count)
                    await asyncio.sleep(0.05)
            outcome = await ended(process)
            found = json.loads(outcome.out)
            assert len(found) >= count / 2, outcome
            assert [one for one in found if one["removed"]] == []
            # No watcher was told of anything: the mark that is set now comes first.
            mark = await owner.register(EndpointSpec("m", "a", "rk", transport=Transport.nats("x")))
            assert await anext(events) == natsdisc.Added(mark)
        assert owner.stats().reregistrations == 0


async def test_an_owner_renews_the_lease_that_it_is_given(server: NatsServer, shell: Shell) -> None:
    async with (
        natsdisc.connect(server.url, instance_id=1, lease_ttl=30) as owner,
        await Admin.connect(server.url, {}) as admin,
    ):
        mine = await owner.register(spec(0))

        async def lent() -> bool:
            lease = await Inspector(admin).lease(BUCKET, "bank.pay.e0.1")
            return lease is not None and "Natsdisc-Owner" not in lease.headers

        with Raw(server.port) as raw:
            strip(raw, 1)
            process = await shell.start("prune", "*", "--yes", "--json")
            while process.returncode is None and not await lent():
                strip(raw, 1)
        outcome = await ended(process)
        assert [one["fate"] for one in json.loads(outcome.out)] == ["renewed by its owner"]
        assert await owner.list(endpoints()) == [mine]
        assert await pruned(shell, "*", "--yes") == []
        assert owner.stats().fence_failures == 0


async def test_the_dead_go_with_the_lease_that_they_are_given(server: NatsServer, shell: Shell) -> None:
    owner = await natsdisc.connect(server.url, instance_id=1, lease_ttl=3600)
    await owner.register(spec(0))
    await crash(owner)
    key = f"$KV.{BUCKET}.bank.pay.e1.1"
    async with natsdisc.connect(server.url, lease_ttl=None) as watcher:
        value = natsdisc.wire.dumps(spec(1).with_instance_id(1))
        with Raw(server.port) as raw:
            strip(raw, 1)
            raw.publish(key, value, headers("Natsdisc-Leased: 1"))  # says nothing of its ttl
            raw.sync()
        assert len(await watcher.list(endpoints())) == 2
        async with (
            watcher.list_and_watch(endpoints("bank", "pay", "e1")) as events,
            asyncio.timeout(PATIENCE),
        ):
            assert isinstance(await anext(events), natsdisc.Added)
            # The long lease is not waited for.
            outcome = await pruned(shell, "*", "--yes", "--wait", "14s")
            assert {one["path"]: one["fate"] for one in outcome} == {
                "bank/pay/e0/1": "has a lease again",
                "bank/pay/e1/1": "removed",
            }
            removed = await anext(events)
            assert isinstance(removed, natsdisc.Removed)
            assert removed.reason is natsdisc.RemovalReason.EXPIRED


async def test_what_has_no_lease_is_removed_under_its_fence(server: NatsServer, shell: Shell) -> None:
    async with natsdisc.connect(server.url, instance_id=1, lease_ttl=None) as owner:
        bare = [await owner.register(spec(number)) for number in range(2)]
        changing = True

        async def change() -> None:
            mine = bare[0]
            while changing:
                with contextlib.suppress(natsdisc.ConflictError):
                    mine = await owner.update(mine, metadata={"at": asyncio.get_running_loop().time()})

        task = asyncio.create_task(change())
        try:
            outcome = await pruned(shell, "bank/*", "--yes")
        finally:
            changing = False
            await task
        fates = {one["path"]: one["fate"] for one in outcome}
        assert fates["bank/pay/e1/1"] == "removed"
        assert fates["bank/pay/e0/1"] in ("removed", "changed meanwhile")


# Schedules that are nobody's lease


@pytest.fixture
async def discovery(server: NatsServer) -> AsyncIterator[Discovery]:
    async with natsdisc.connect(server.url, instance_id=1, lease_ttl=10) as discovery:
        await discovery.register(spec(0))
        await discovery.register(spec(1), lease_ttl=None)
        yield discovery


def spoil(server: NatsServer) -> dict[str, str]:
    """Write one message of each kind, and return where they lie and what an audit calls them."""
    lease, key = f"$NATSDISC.LEASE.{BUCKET}.shop", f"$KV.{BUCKET}"
    victim = f"Nats-Schedule-Target: {key}.bank.pay.e0.1"
    by_another = EndpointSpec("s", "t", "r", transport=Transport.nats("x")).with_instance_id(5)
    with Raw(server.port) as raw:
        raw.publish(f"{lease}.every", b"", headers("Nats-Schedule: @every 1h", victim, "KV-Operation: DEL"))
        raw.publish(f"{lease}.cron", b"x", headers("Nats-Schedule: 0 0 5 1 1 *", victim))
        own = f"Nats-Schedule-Target: {key}.shop.value"
        raw.publish(f"{lease}.value", b"x", headers(f"Nats-Schedule: {LATER}", own))
        raw.publish(f"{lease}.other", b"", headers(f"Nats-Schedule: {LATER}", victim, "KV-Operation: DEL"))
        raw.publish(f"{lease}.\x1b[31m", b"", headers(f"Nats-Schedule: {LATER}", victim))
        raw.publish(f"{lease}.rubbish", b"rubbish")
        raw.publish(b"$NATSDISC.LEASE.%s.shop.\xff\xfe" % BUCKET.encode(), b"x")
        raw.publish(f"{key}.shop.schedule", b"", headers(f"Nats-Schedule: {LATER}", victim))
        raw.publish(f"{key}.shop.rubbish", b"rubbish")
        raw.publish(f"$JS.API.CONSUMER.INFO.KV_{BUCKET}.none", b"", reply=f"{key}.shop.answer")
        raw.publish(f"{key}.s.t.r.5", natsdisc.wire.dumps(by_another))
        now = headers("Nats-Schedule: @at 2020-01-01T00:00:00Z", f"Nats-Schedule-Target: {key}.shop.forged")
        raw.publish(f"{lease}.now", b"x", now)
        raw.sync()
        assert raw.refused == []
    return {
        f"{lease}.every": "foreign schedule: ",
        f"{lease}.cron": "foreign schedule: ",
        f"{lease}.value": "foreign schedule: ",
        f"{lease}.other": "foreign schedule: ",
        f"{lease}.\x1b[31m": "foreign schedule: ",
        f"{lease}.rubbish": "not a lease: ",
        f"$NATSDISC.LEASE.{BUCKET}.shop.\ufffd\ufffd": "unreadable name: ",
        f"{key}.shop.schedule": "foreign schedule: ",
        f"{key}.shop.rubbish": "invalid: ",
        f"{key}.shop.answer": "invalid: ",
        f"{key}.s.t.r.5": "not written by natsdisc: ",
        f"{key}.shop.forged": "written by a foreign schedule: ",
    }


async def audited(shell: Shell) -> dict[str, str]:
    """Where each oddity lies, and what it is called."""
    outcome = await shell.run("doctor", "--audit", "--json")
    found = {}
    for finding in json.loads(outcome.out):
        if finding["check"].startswith("audit") and finding["state"] != "ok":
            assert finding["todo"]
            word, subject, _ = finding["text"].split(": ", 2)
            found[subject] = f"{word}: "
    return found


async def test_an_audit_names_what_no_registrar_wrote_and_prune_ends_it(
    server: NatsServer, discovery: Discovery, shell: Shell
) -> None:
    clean = await shell.run("doctor", "--audit")
    assert clean.code == 0, clean
    assert clean.out.count("leases and entries only") == 4
    planted = spoil(server)

    async def forged() -> bool:
        return await audited(shell) == planted

    await eventually(forged, PATIENCE)  # the schedule that is due fires after a moment
    broken = await shell.run("doctor", "--audit")
    assert broken.code == 1
    assert "\x1b" not in broken.out

    endable = {
        subject for subject, what in planted.items() if what in ("foreign schedule: ", "not a lease: ")
    }
    dry = await pruned(shell, "--foreign-schedules")
    assert {one["key"]: one["fate"] for one in dry} == dict.fromkeys(endable, "would be removed")
    wet = await pruned(shell, "--foreign-schedules", "--yes")
    assert {one["key"]: one["removed"] for one in wet} == dict.fromkeys(endable, True)

    async def gone() -> bool:
        return set(await audited(shell)) == set(planted) - endable

    await eventually(gone, PATIENCE)
    # Leases and entries of registrars are as they were.
    listed = {one.endpoint for one in await discovery.list(endpoints("bank"))}
    assert listed == {"e0", "e1"}
    assert discovery.stats().fence_failures == 0


async def test_a_schedule_that_was_ended_fires_no_more(server: NatsServer, shell: Shell) -> None:
    target = f"$KV.{BUCKET}.shop.target"
    async with await Admin.connect(server.url, {}) as admin:
        with Raw(server.port) as raw:
            raw.publish(
                f"$NATSDISC.LEASE.{BUCKET}.shop.x",
                b"x",
                headers("Nats-Schedule: @every 1s", f"Nats-Schedule-Target: {target}"),
            )
            raw.sync()

            async def written() -> int:
                state = await admin.state(BUCKET)
                assert state is not None
                return state.written

            async def fired() -> bool:
                return await written() >= 3

            await eventually(fired, PATIENCE)
            [ended_one] = await pruned(shell, "--foreign-schedules", "--yes")
            assert ended_one["removed"]

            async def over() -> bool:
                return await admin.leases(BUCKET) == set()

            await eventually(over, PATIENCE)
            before = await written()
            # What the server does within the next two looks of its scheduler would be stored before this.
            raw.publish(f"$NATSDISC.LEASE.{BUCKET}.shop.y", b"x", headers("Nats-TTL: 3s"))
            raw.sync()
            await eventually(over, PATIENCE)
            assert await written() == before + 1


async def test_an_audit_is_bounded(server: NatsServer, shell: Shell) -> None:
    with Raw(server.port) as raw:
        for number in range(200):
            raw.publish(f"$KV.{BUCKET}.{'x' * 300}.{number}", b"x" * 1000)
        raw.sync()
    outcome = await shell.run("doctor", "--audit")
    lines = [line for line in outcome.out.splitlines() if line.startswith("note") and "invalid" in line]
    assert len(lines) == 11
    assert "190 more" in lines[-1]
    assert max(map(len, outcome.out.splitlines())) < 500


async def test_an_audit_needs_the_rights_for_it(shell: Shell) -> None:
    allowed = natsdisc.acl.permissions(natsdisc.acl.Role.READER)
    config = f"authorization {{ users: [ {{ user: u, password: p, {allowed.as_conf()} }} ] }}"
    async with NatsServer(config=config) as server:
        async with natsdisc.connect(server.url, user="u", password="p") as reader:
            assert await reader.list(endpoints()) == []
        login = ["-s", server.url, "--user", "u", "--password", "p", "--role", "reader"]
        outcome = await shell.run("doctor", "--audit", *login)
        assert outcome.code == 0, outcome  # there is no bucket to look at
