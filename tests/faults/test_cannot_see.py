"""What cannot be repaired raises; "everyone left", "I was closed" and "I cannot see" are told apart."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import PermissionDeniedError, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream import following, reading
from tests.rig import eventually

from .kit import DEADLINE, Follower, Plain, foreign

READER = """
accounts {{
  A {{
    jetstream: enabled
    users: [
      {{ user: admin, password: pw }}
      {reader}
    ]
  }}
}}
"""
USER = "{{ user: reader, password: pw, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}"
INFO, CREATE = '"$JS.API.STREAM.INFO.>"', '"$JS.API.CONSUMER.>"'
EVENTS = '"$JS.EVENT.ADVISORY.STREAM.CREATED.>"'
ALLOWED = USER.format(publish=f"{INFO}, {CREATE}", subscribe=f'"_INBOX.>", {EVENTS}')
REVOKED = {
    "may not create consumers": USER.format(publish=INFO, subscribe=f'"_INBOX.>", {EVENTS}'),
    "may not subscribe": USER.format(publish=f"{INFO}, {CREATE}", subscribe=EVENTS),
}


def beside_a_server(file: Path) -> str:
    """The path from a server's own file, in a temporary directory, where it looks for what it includes."""
    return os.path.relpath(file, Path(tempfile.gettempdir()) / "server")


async def reload(server: NatsServer) -> None:
    """Have the server read its configuration again, and wait until it has."""
    before = server.log.count("Reloaded server configuration")
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: server.log.count("Reloaded server configuration") > before)


# nats-py leaves the connections of refused reconnects to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", REVOKED)
async def test_a_permission_that_is_revoked_and_given_back(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = tmp_path / "users.conf"
    users.write_text(READER.format(reader=ALLOWED))
    beside = beside_a_server(users)
    async with (
        NatsServer(config=f'include "{beside}"') as server,
        Plain.connected(server.url, user="admin", password="pw") as admin,
        natsdisc.connect(server.url, user="reader", password="pw") as reader,
    ):
        await admin.make_buckets()
        await admin.put(foreign(0))
        follower = Follower(reader, endpoints())
        view = reader.view(endpoints())
        await eventually(lambda: follower.live)
        users.write_text(READER.format(reader=REVOKED[what]))
        await reload(server)
        # Nobody needs a new consumer before the old one is gone.
        for stream, name in await admin.consumers():
            await admin.js.delete_consumer(stream, name)
        await eventually(lambda: "is stale" in caplog.text, DEADLINE)
        await admin.put(foreign(1))
        await eventually(lambda: view.age > 5, DEADLINE)
        assert follower.outcome is None
        assert foreign(0).id in follower.live, "what cannot be seen is not gone"
        users.write_text(READER.format(reader=ALLOWED))
        await reload(server)
        await eventually(lambda: foreign(1).id in follower.live and view.age < 4, DEADLINE)
        assert caplog.text.count("is stale") == 1, "one warning when it begins"
        await follower.aclose()


async def test_a_permission_that_was_never_given_ends_the_watch(tmp_path: Path) -> None:
    users = tmp_path / "users.conf"
    users.write_text(READER.format(reader=REVOKED["may not create consumers"]))
    async with (
        NatsServer(config=f'include "{beside_a_server(users)}"') as server,
        natsdisc.connect(server.url, user="reader", password="pw") as reader,
    ):
        for own_consumers in (32, 0):  # by consumers of their own, and by shared ones
            store = reader._store
            assert isinstance(store, natsdisc.JetStreamStore)
            store._options = dataclasses.replace(store._options, own_consumers=own_consumers)
            store._buckets.clear()
            follower = Follower(reader, endpoints(f"ns{own_consumers}"))
            await eventually(lambda: follower.outcome, DEADLINE)  # noqa: B023
            assert isinstance(follower.outcome, PermissionDeniedError), repr(follower.outcome)
            with pytest.raises(PermissionDeniedError):
                await anext(follower.watch)
            await follower.aclose()


async def test_a_permission_that_comes_back_needs_no_new_connection(tmp_path: Path) -> None:
    users = tmp_path / "users.conf"
    users.write_text(READER.format(reader=ALLOWED))
    async with (
        NatsServer(config=f'include "{beside_a_server(users)}"') as server,
        Plain.connected(server.url, user="admin", password="pw") as admin,
        natsdisc.connect(server.url, user="reader", password="pw") as reader,
    ):
        await admin.make_buckets()
        await admin.put(foreign(0))
        assert await reader.list(endpoints()) == [foreign(0)]
        for reader_may in (REVOKED["may not subscribe"], ALLOWED):
            reloads = server.log.count("Reloaded server configuration")
            users.write_text(READER.format(reader=reader_may))
            os.kill(server.pid, signal.SIGHUP)
            await eventually(lambda: server.log.count("Reloaded server configuration") > reloads)  # noqa: B023
            if reader_may != ALLOWED:
                with pytest.raises(PermissionDeniedError):
                    await reader.list(endpoints())
        assert await reader.list(endpoints()) == [foreign(0)]


async def test_who_may_not_ask_about_consumers_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = 0, reading.Reading.check

    async def counted(of: reading.Reading, *given: Any) -> bool:
        nonlocal looks
        looks += 1
        return await look(of, *given)

    monkeypatch.setattr(following, "_CHECK_EVERY", 0.2)
    monkeypatch.setattr(reading.Reading, "check", counted)
    only_create = USER.format(
        publish='"$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>"', subscribe=f'"_INBOX.>", {EVENTS}'
    )
    async with (
        NatsServer(config=READER.format(reader=only_create)) as server,
        Plain.connected(server.url, user="admin", password="pw") as admin,
        natsdisc.connect(server.url, user="reader", password="pw") as discovery,
    ):
        await admin.make_buckets()
        await admin.put(foreign(0))
        follower = Follower(discovery, endpoints())
        await eventually(lambda: looks >= 3, DEADLINE)
        await admin.put(foreign(1))
        await eventually(lambda: len(follower.live) == 2, DEADLINE)
        assert follower.outcome is None
        await follower.aclose()


async def test_gone_closed_and_blind_are_three_different_things(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "natsdisc")
    with NatsServer() as server:
        async with Plain.connected(server.url) as plain, natsdisc.connect(server.url) as discovery:
            await plain.make_buckets()
            follower = Follower(discovery, endpoints())
            await plain.put(foreign(0))
            await eventually(lambda: follower.live)

            # Everyone left: an event for each, and the watch goes on.
            await plain.delete(foreign(0).id)
            await eventually(lambda: not follower.live, DEADLINE)
            assert follower.outcome is None
            assert not discovery.stats().resyncs
            await plain.put(foreign(1))
            await eventually(lambda: follower.live)

            # I cannot see: no event and no end, but a warning and a count.
            server.kill()
            await eventually(lambda: "is stale" in caplog.text, DEADLINE)
            assert discovery.stats().resyncs
            with pytest.raises(natsdisc.StoreUnavailableError):
                await discovery.list(endpoints())
            assert list(follower.live.values()) == [foreign(1)]
            assert follower.outcome is None
            server.start()
            await eventually(lambda: "is in sync again" in caplog.text, DEADLINE)
            assert list(follower.live.values()) == [foreign(1)]

            # I was closed: a quiet end, for one watch or for all.
            other = Follower(discovery, endpoints("ns1"))
            await eventually(lambda: other.live)
            await follower.aclose()
            assert follower.outcome == "closed"
            assert other.outcome is None
            await discovery.close()
            await other.aclose()
            assert other.outcome == "closed"
            assert not follower.problems + other.problems
            assert follower.counts == {"added": 2, "removed": 1}
            events = discovery.list_and_watch
            with pytest.raises(natsdisc.ClosedError):
                events(endpoints())
