"""What can pass by itself ends no watch: it is stale and says so, and goes on afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import StoreUnavailableError, View, endpoints
from natsdisc.server import NatsServer
from tests.rig import LONG, eventually

from .kit import DEADLINE, Follower, Plain, foreign

LOGIN: dict[str, Any] = {"user": "u", "password": "pw"}
# nats-py leaves the connections of refused reconnects to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Watched:
    """A watch and a view of all endpoints, and what they logged."""

    def __init__(self, discovery: natsdisc.Discovery, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "natsdisc")
        self._caplog = caplog
        self.view: View[Any] = discovery.view(endpoints())
        self.follower = Follower(discovery, endpoints())

    def logged(self, event: str) -> int:
        return sum(getattr(record, "natsdisc_event", "") == event for record in self._caplog.records)

    async def sees(self, *numbers: int) -> None:
        """Wait until exactly these foreign instances are there, and fresh."""
        expected = {foreign(number).id for number in numbers}
        await eventually(
            lambda: (
                set(self.follower.live) == expected == {each.id for each in self.view} and self.view.age < 4
            ),
            DEADLINE,
        )
        assert self.follower.outcome is None
        assert not self.follower.problems

    async def is_stale(self, age: float = 0.0) -> None:
        """Wait until it says so, and its picture is older than `age` seconds."""
        await eventually(lambda: self.logged("stale") and self.view.age > age, DEADLINE + age)
        assert self.follower.outcome is None, repr(self.follower.outcome)


def server_with(file: Path, config: str) -> NatsServer:
    """A server whose configuration can be changed by `reconfigure`."""
    file.write_text(config)
    beside = os.path.relpath(file, Path(tempfile.gettempdir()) / "server")
    return NatsServer(config=f'include "{beside}"', jetstream=False)


async def reconfigure(server: NatsServer, file: Path, config: str) -> None:
    file.write_text(config)  # noqa: ASYNC240
    before = server.log.count("Reloaded server configuration")
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: server.log.count("Reloaded server configuration") > before)


def accounts(store: Path, jetstream: str, users: str = "{ user: u, password: pw }") -> str:
    return f"""
jetstream {{ store_dir: "{store}" }}
accounts {{ A {{ {jetstream}, users: [ {users}, {{ user: admin, password: pw }} ] }} }}
"""


async def test_credentials_that_are_refused_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as users that are not loaded yet after a restart."""
    good = accounts(tmp_path, "jetstream: enabled")
    bad = accounts(tmp_path, "jetstream: enabled", "{ user: v, password: pw }")
    file = tmp_path / "nats.conf"
    async with (
        server_with(file, good) as server,
        Plain.connected(server.url, user="admin", password="pw") as admin,
        natsdisc.connect(server.url, lease_ttl=None, **LOGIN) as discovery,
    ):
        await admin.make_buckets()
        await admin.put(foreign(0))
        watched = Watched(discovery, caplog)
        await watched.sees(0)
        file.write_text(bad)
        await asyncio.to_thread(server.restart)
        await watched.is_stale(age=60.0 if LONG else 10.0)  # longer than a request waits
        file.write_text(good)
        await asyncio.to_thread(server.restart)
        await admin.put(foreign(1))
        await watched.sees(0, 1)
        assert watched.logged("stale") == 1
        assert watched.logged("in_sync") == 1
        await watched.follower.aclose()


async def test_jetstream_that_comes_long_after_the_view(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "nats.conf"
    off, on = (accounts(tmp_path, f"jetstream: {state}") for state in ("disabled", "enabled"))
    async with (
        server_with(file, off) as server,
        natsdisc.connect(server.url, lease_ttl=None, **LOGIN) as discovery,
    ):
        watched = Watched(discovery, caplog)
        await watched.is_stale(age=4.0)
        with pytest.raises(StoreUnavailableError, match="JetStream not enabled for account"):
            await discovery.list(endpoints())
        await reconfigure(server, file, on)
        async with Plain.connected(server.url, user="admin", password="pw") as admin:
            await admin.make_buckets()
            await admin.put(foreign(0))
            await watched.sees(0)
        await watched.follower.aclose()


async def test_an_account_that_loses_jetstream_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "nats.conf"
    off, on = (accounts(tmp_path, f"jetstream: {state}") for state in ("disabled", "enabled"))
    async with (
        server_with(file, on) as server,
        Plain.connected(server.url, user="admin", password="pw") as admin,
        natsdisc.connect(server.url, lease_ttl=None, **LOGIN) as discovery,
    ):
        await admin.make_buckets()
        await admin.put(foreign(0))
        watched = Watched(discovery, caplog)
        await watched.sees(0)
        await reconfigure(server, file, off)
        await watched.is_stale(age=5.0)
        await reconfigure(server, file, on)
        await admin.make_buckets()
        await admin.put(foreign(0))
        await admin.put(foreign(1))
        await watched.sees(0, 1)
        await watched.follower.aclose()


async def test_a_leaf_node_whose_hub_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    store = f'jetstream {{ domain: eu, store_dir: "{tmp_path}" }}'
    hub = NatsServer(config=f'{store}\nleafnodes {{ listen: "127.0.0.1:{port}" }}', jetstream=False)
    remotes = f'leafnodes {{ remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}'
    leaf = NatsServer(config=f'default_js_domain: {{ "$G": eu }}\n{remotes}', jetstream=False)
    async with hub, leaf, natsdisc.connect(leaf.url, lease_ttl=None) as discovery:
        async with Plain.connected(hub.url) as plain:
            await plain.make_buckets()
            await plain.put(foreign(0))
            watched = Watched(discovery, caplog)
            await watched.sees(0)
            hub.kill()
            await watched.is_stale(age=5.0)
            await asyncio.to_thread(hub.start)
            await eventually(lambda: plain.client.is_connected, DEADLINE)
            await plain.put(foreign(1))
            await watched.sees(0, 1)
        await watched.follower.aclose()


async def test_consumers_that_somebody_else_has_used_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        NatsServer() as server,
        Plain.connected(server.url) as plain,
        natsdisc.connect(server.url, lease_ttl=None) as discovery,
    ):
        await plain.make_buckets(max_consumers=2)
        await plain.put(foreign(0))
        others = [await plain.js.pull_subscribe("$KV.v1_instances.>", f"other{n}") for n in range(2)]
        watched = Watched(discovery, caplog)
        await watched.is_stale(age=2.0)
        assert "maximum consumers limit reached" in caplog.text
        listing = asyncio.create_task(discovery.list(endpoints()))
        await asyncio.wait((listing,), timeout=1)
        assert not listing.done(), "a list waits for a consumer"
        for number, other in enumerate(others):
            await other.unsubscribe()
            await plain.js.delete_consumer("KV_v1_instances", f"other{number}")
        assert await listing == [foreign(0)]
        await watched.sees(0)
        await watched.follower.aclose()


async def test_a_bucket_without_a_number_gets_one_when_its_consumers_are_used_up() -> None:
    """nats-server 2.15 takes -1 for 1,000."""
    async with (
        NatsServer() as server,
        Plain.connected(server.url) as plain,
        natsdisc.connect(server.url, lease_ttl=None) as discovery,
    ):
        await plain.make_buckets()
        await plain.put(foreign(0))
        config = {
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": "$KV.v1_instances.>",
            "inactive_threshold": 600_000_000_000,
        }

        async def make(number: int) -> None:
            body = {"stream_name": "KV_v1_instances", "config": {**config, "name": f"other{number}"}}
            subject = f"$JS.API.CONSUMER.CREATE.KV_v1_instances.other{number}.$KV.v1_instances.>"
            await plain.client.request(subject, json.dumps(body).encode(), timeout=30)

        for begin in range(0, 1000, 100):
            await asyncio.gather(*(make(number) for number in range(begin, begin + 100)))
        assert await discovery.list(endpoints()) == [foreign(0)]


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"{}", b'{"config": {}}', b'{"error": "x"}'], ids=str)
async def test_replies_that_cannot_be_read(rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = NatsServer(jetstream=False)
    async with server, natsdisc.connect(server.url, lease_ttl=None) as discovery:
        told = 0

        async def answer(message: Any) -> None:
            nonlocal told
            told += 1
            await message.respond(rubbish)

        async with Plain.connected(server.url) as plain:
            await plain.client.subscribe("$JS.API.>", cb=answer)
            await plain.client.subscribe("$KV.>", cb=answer)
            await plain.client.flush()
            watched = Watched(discovery, caplog)
            await watched.is_stale()
            await eventually(lambda: told > 3, DEADLINE)
            with pytest.raises(StoreUnavailableError):
                await discovery.list(endpoints())
            spec = natsdisc.EndpointSpec("a", "b", "c", transport=natsdisc.Transport.http("http://x"))
            with pytest.raises(StoreUnavailableError):
                await discovery.register(spec)
            assert watched.logged("malformed_reply") == 1
        server._jetstream = True
        await asyncio.to_thread(server.restart)
        async with Plain.connected(server.url) as plain:
            await plain.make_buckets()
            await plain.put(foreign(0))
            await watched.sees(0)
        await watched.follower.aclose()


async def test_a_task_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        NatsServer() as server,
        Plain.connected(server.url) as plain,
        natsdisc.connect(server.url, lease_ttl=None) as discovery,
    ):
        await plain.make_buckets()
        await plain.put(foreign(0))
        watched = Watched(discovery, caplog)
        await watched.sees(0)
        [task] = [task for task in asyncio.all_tasks() if task.get_name().startswith("natsdisc-reader")]
        task.cancel()
        await eventually(lambda: watched.logged("task_ended") == 1)
        await plain.put(foreign(1))
        await watched.sees(0, 1)
        assert discovery.stats().resyncs["restart"] == 1
        await watched.follower.aclose()


async def test_a_reader_may_be_told_later_what_it_was_refused(tmp_path: Path) -> None:
    """Whether this user may ask about the stream is asked again after a reconnect."""
    file = tmp_path / "nats.conf"
    create = '"$JS.API.CONSUMER.>", "$JS.FC.>"'
    few = f"{{ user: u, password: pw, permissions: {{ publish: [{create}] }} }}"
    more = f'{{ user: u, password: pw, permissions: {{ publish: [{create}, "$JS.API.STREAM.INFO.>"] }} }}'
    async with (
        server_with(file, accounts(tmp_path, "jetstream: enabled", few)) as server,
        natsdisc.connect(server.url, lease_ttl=None, **LOGIN) as discovery,
    ):
        async with Plain.connected(server.url, user="admin", password="pw") as admin:
            await admin.make_buckets()
        stream = discovery._store.bucket("v1_instances")._stream  # type: ignore[attr-defined]
        for _ in range(3):
            assert await discovery.list(endpoints()) == []
        assert stream.info_denied
        assert server.log.count('"$JS.API.STREAM.INFO.KV_v1_instances"') == 1, "one refusal, not one a list"
        file.write_text(accounts(tmp_path, "jetstream: enabled", more))
        await asyncio.to_thread(server.restart)
        await eventually(lambda: not stream.info_denied, DEADLINE)
        assert await discovery.list(endpoints()) == []
        assert not stream.info_denied
        assert stream.known
