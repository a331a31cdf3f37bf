"""A registration that cannot be renewed says so, once, with the reason; and others are not disturbed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import (
    ClosedError,
    DiscoveryError,
    EndpointSpec,
    JetStreamStore,
    ModelSpec,
    PayloadTooLargeError,
    PermissionDeniedError,
    State,
    StoreUnavailableError,
    Transport,
    endpoints,
    models,
)
from natsdisc.server import NatsServer
from tests.rig import eventually

PATIENCE = 45.0
GOOD = "accounts { A { jetstream: enabled, users: [ { user: u, password: p } ] } }"
MAY_NOT_RENEW = (
    "accounts { A { jetstream: enabled, users: [ { user: u, password: p, "
    'permissions: { publish: { deny: ["$NATSDISC.LEASE.>"] } } } ] } }'
)
NO_JETSTREAM = "accounts { A { users: [ { user: u, password: p } ] } }"


def spec(name: str = "ep") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "natsdisc_event", "") == event]


def url_of(server: NatsServer) -> str:
    return f"nats://u:p@127.0.0.1:{server.port}"


async def reload(server: NatsServer, config: str) -> None:
    server._config = config
    assert server._directory is not None
    path = server._directory / "nats.conf"
    path.write_text(server._configuration(server._directory / "ports"), encoding="utf-8")
    before = server.log.count("Reloaded server configuration")
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: server.log.count("Reloaded server configuration") > before)


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with NatsServer(config=GOOD) as server:
        yield server


async def kill(server: NatsServer) -> None:
    await asyncio.to_thread(server.kill)


async def start(server: NatsServer) -> None:
    await asyncio.to_thread(server.start)


FAULTS: dict[str, tuple[Callable[[NatsServer], Any], Callable[[NatsServer], Any], type[DiscoveryError]]] = {
    "server gone": (kill, start, StoreUnavailableError),
    "right taken away": (
        lambda server: reload(server, MAY_NOT_RENEW),
        lambda server: reload(server, GOOD),
        PermissionDeniedError,
    ),
    "no JetStream": (
        lambda server: reload(server, NO_JETSTREAM),
        lambda server: reload(server, GOOD),
        StoreUnavailableError,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_once_with_its_reason_and_its_end(
    server: NatsServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "natsdisc")
    make, mend, kind = FAULTS[fault]
    states: list[State] = []
    async with natsdisc.connect(
        url_of(server), lease_ttl=2, on_state=lambda one: states.append(one.state)
    ) as service:
        await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(30)))
        held = service.registrations
        await make(server)
        await eventually(lambda: states.count(State.RECOVERING) == 30, timeout=PATIENCE)
        assert {one.state for one in held} == {State.RECOVERING}
        # The last reason counts: a reload may break the connection first.
        await eventually(lambda: all(isinstance(one.error, kind) for one in held), timeout=PATIENCE)
        errors = [one.error for one in held]
        told = await eventually(lambda: lines(caplog, "recovering"), timeout=PATIENCE)
        assert told[0].levelno == logging.WARNING
        assert str(errors[0])[:20] in told[0].getMessage() or len({str(error) for error in errors}) > 1
        beats = service.stats().heartbeats
        await mend(server)
        await eventually(lambda: {one.state for one in held} == {State.ACTIVE}, timeout=PATIENCE)
        assert {one.error for one in held} == {None}
        await eventually(lambda: service.stats().heartbeats >= beats + 60, timeout=PATIENCE)
        [ended, *_] = await eventually(lambda: lines(caplog, "active_again"), timeout=PATIENCE)
        assert ended.levelno == logging.INFO
        assert states.count(State.RECOVERING) == states.count(State.ACTIVE)
    # One line, or two where the thirty did not fall silent within a moment.
    told = lines(caplog, "recovering")
    assert len(told) <= 2
    assert sum(getattr(line, "natsdisc_count", 0) for line in told) == 30
    assert lines(caplog, "active_again")[-1].created >= told[-1].created


async def test_a_users_connection_that_was_closed_is_an_error(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await nats.connect(url_of(server))
    states: list[tuple[State, type | None]] = []
    service = natsdisc.Discovery(
        JetStreamStore(connection),
        lease_ttl=1,
        on_state=lambda one: states.append((one.state, type(one.error))),
    )
    for number in range(20):
        await service.register(spec(f"ep{number}"))
    await connection.close()
    await eventually(lambda: len(states) == 20, timeout=PATIENCE)
    assert set(states) == {(State.RECOVERING, ClosedError)}
    await eventually(lambda: lines(caplog, "unrenewable"), timeout=PATIENCE)
    with pytest.raises(ClosedError):
        await service.register(spec("more"))
    await service.close()
    told = lines(caplog, "unrenewable")
    assert len(told) <= 2
    assert {line.levelno for line in told} == {logging.ERROR}
    assert sum(getattr(line, "natsdisc_count", 0) for line in told) == 20
    assert "closed" in told[0].getMessage()


async def test_all_wait_for_the_connection_as_one(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand, each tried by itself, 5,600 tries a second were made; these are three hundred."""
    async with natsdisc.connect(url_of(server), lease_ttl=5) as service:
        await asyncio.gather(*(service.register(spec(f"ep{number}")) for number in range(300)))
        held, bucket, calls = service.registrations, service._store.bucket("v1_instances"), 0
        await eventually(lambda: not service._registrar._upkeep.renewals._tasks, timeout=PATIENCE)

        def counted(name: str) -> None:
            method = getattr(bucket, name)

            async def count(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                return await method(*args, **options)

            monkeypatch.setattr(bucket, name, count)

        await kill(server)
        await eventually(lambda: not service._store._requester.up, timeout=PATIENCE)  # type: ignore[attr-defined]
        for name in ("ready", "renew", "restore", "create"):
            counted(name)
        await eventually(lambda: all(one.state is State.RECOVERING for one in held), timeout=PATIENCE)
        began, calls_before = asyncio.get_running_loop().time(), calls
        await eventually(lambda: asyncio.get_running_loop().time() > began + 3)
        assert calls - calls_before < 20 * (asyncio.get_running_loop().time() - began)
        await start(server)
        await eventually(lambda: all(one.state is State.ACTIVE for one in held), timeout=PATIENCE)
        assert len(await service.list(endpoints())) == 300


async def test_a_value_that_is_too_large_now_disturbs_no_other(server: NatsServer) -> None:
    """The limit is the bucket's here: a message that the server refuses with an answer."""
    async with natsdisc.connect(url_of(server), lease_ttl=1) as service:
        mine = await service.register(spec())
        card = await service.register(ModelSpec("ns", "comp", "ep", card="x" * 100_000))
        [held] = [one for one in service.registrations if one.id == card.id]
        admin = await nats.connect(url_of(server))
        info = json.loads((await admin.request("$JS.API.STREAM.INFO.KV_v1_mdc", b"")).data)
        smaller_limit = json.dumps({**info["config"], "max_msg_size": 50_000}).encode()
        answer = await admin.request("$JS.API.STREAM.UPDATE.KV_v1_mdc", smaller_limit)
        assert "error" not in json.loads(answer.data)
        with pytest.raises(PayloadTooLargeError):
            await service.update(card, card="y" * 100_000)
        assert held.state is State.ACTIVE
        await admin.jetstream().purge_stream("KV_v1_mdc")
        await eventually(lambda: isinstance(held.error, PayloadTooLargeError), timeout=PATIENCE)
        assert str(held.state) == "recovering"
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count >= beats + 6, timeout=PATIENCE)
        assert await service.list(endpoints()) == [mine]
        # A smaller value can be registered in its place.
        smaller = await service.update(card, card="z")
        assert await service.list(models()) == [smaller]
        assert held.state is State.ACTIVE
        await admin.close()


RUBBISH = {
    "not JSON": b"rubbish",
    "empty": b"",
    "no object": b"[]",
    "no fields": b"{}",
    "a null": b'{"config":null,"state":null}',
    "no state": b'{"config":{"max_msgs_per_subject":1}}',
    "wrong types": b'{"config":{"subjects":1},"state":{"last_seq":"x","messages":1},"ts":5}',
    "an error of no kind": b'{"error":{}}',
    "an error that is none": b'{"error":"no"}',
}


@pytest.mark.parametrize("answer", RUBBISH)
async def test_a_malformed_answer_is_an_error_of_ours(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without JetStream, and somebody else who answers in its place."""
    monkeypatch.setattr("natsdisc.store.jetstream.requests.REQUEST_TIMEOUT", 0.5)
    async with NatsServer(config="accounts { A { users: [ { user: u, password: p } ] } }") as server:
        liar = await nats.connect(url_of(server))

        async def lie(message: Any) -> None:
            if message.reply:
                await message.respond(RUBBISH[answer])

        for subject in ("$JS.API.>", "$KV.>", "$NATSDISC.>"):
            await liar.subscribe(subject, cb=lie)
        await liar.flush()
        service = await natsdisc.connect(url_of(server), lease_ttl=1)
        instance = spec().with_instance_id(7)
        for attempt in (
            lambda: service.register(spec()),
            lambda: service.register(spec(), lease_ttl=None),
            lambda: service.update(instance, metadata={"a": 1}),
            lambda: service.drain(instance),
            lambda: service.unregister(instance),
        ):
            with pytest.raises(DiscoveryError):
                await attempt()
        bucket = service._store.bucket("v1_instances")
        [outcome] = await bucket.renew([natsdisc.store.Lease("ns.comp.ep.7", 1, 1.0, "owner")])
        assert isinstance(outcome, DiscoveryError)
        await service.close()
        await liar.close()
