"""Nobody waits for a dead server: closes and cancelled calls end in time, whatever the link does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import ClosedError, EndpointSpec, Transport, endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually

from .proxy import Direction, Proxy

CLOSED = 2.5  # seconds, promised
CANCELLED = 0.5
SLACK = 0.5  # this machine does other things, too
PASSWORD = 'authorization { user: "u", password: "%s" }\n'


def spec(name: str = "checkout") -> EndpointSpec:
    return EndpointSpec("shop", "cart", name, transport=Transport.nats("addr"))


@dataclass
class Place:
    """A server behind a proxy, and a Discovery that has a view, a watch and registrations there."""

    server: NatsServer
    proxy: Proxy
    discovery: natsdisc.Discovery
    opened: contextlib.AsyncExitStack
    view: Any = None
    watch: Any = None

    async def live_in(self, names: int = 3) -> None:
        for number in range(names):
            await self.discovery.register(spec(f"ep{number}"))
        self.view = self.discovery.view(endpoints())
        self.watch = self.discovery.list_and_watch(endpoints("shop"))
        await self.view.wait_for(names)
        await self.watch.synced()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as opened:
        server = await opened.enter_async_context(NatsServer(config=PASSWORD % "right"))
        proxy = await opened.enter_async_context(Proxy(server.port))
        discovery = await natsdisc.connect(proxy.url, user="u", password="right", error_cb=ignore)
        yield Place(server, proxy, discovery, opened)
        await discovery.close()


async def ignore(error: Exception) -> None:
    pass


async def hung(place: Place) -> None:
    place.server.suspend()


async def half_open(place: Place) -> None:
    place.proxy.half_open(new=False)


async def half_open_for_a_while(place: Place) -> None:
    """Until nothing is believed any more."""
    place.proxy.half_open(new=False)
    await eventually(lambda: place.discovery.stats().resyncs, 30)


async def cut_off(place: Place) -> None:
    place.proxy.cut()
    await eventually(lambda: not client_of(place.discovery).is_connected)


async def no_server(place: Place) -> None:
    place.server.kill()


async def no_server_any_more(place: Place) -> None:
    place.server.kill()
    await eventually(lambda: not client_of(place.discovery).is_connected)


async def wrong_credentials(place: Place) -> None:
    place.server._config = PASSWORD % "another"
    await asyncio.to_thread(place.server.restart)
    await eventually(lambda: not client_of(place.discovery).is_connected, 30)


async def no_jetstream(place: Place) -> None:
    place.server._jetstream = False
    await asyncio.to_thread(place.server.restart)


async def unsent_bytes(place: Place) -> None:
    """More than the sockets on the way take."""
    place.proxy.stall(Direction.TO_SERVER)
    client, data = client_of(place.discovery), bytes(500_000)
    for _ in range(40):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.publish("nobody.listens", data)


STATES: list[Callable[[Place], Any]] = [
    hung,
    half_open,
    half_open_for_a_while,
    cut_off,
    no_server,
    no_server_any_more,
    wrong_credentials,
    no_jetstream,
    unsent_bytes,
]


def client_of(discovery: natsdisc.Discovery) -> Any:
    store: Any = discovery._store
    return store._nc


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_close_ends_in_time_and_raises_nothing(place: Place, state: Callable[[Place], Any]) -> None:
    await place.live_in()
    went_on = False
    async with place.discovery:
        await state(place)
        began = time.monotonic()
    went_on = True
    took = time.monotonic() - began
    print(f"close with {state.__name__}: {took:.2f} s")
    assert went_on
    assert took < CLOSED + SLACK
    with pytest.raises(ClosedError):
        await place.discovery.register(spec())


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_close_with_a_drain_ends_in_time(place: Place, state: Callable[[Place], Any]) -> None:
    await place.live_in()
    await state(place)
    began = time.monotonic()
    await place.discovery.close(drain=1)
    took = time.monotonic() - began
    print(f"close(drain=1) with {state.__name__}: {took:.2f} s")
    assert took < 1 + 2 + SLACK


async def test_a_drain_that_marks_nothing_is_not_waited_for(place: Place) -> None:
    await place.live_in()
    place.server.suspend()
    began = time.monotonic()
    await place.discovery.close(drain=60)
    assert time.monotonic() - began < 1 + 2 + SLACK


async def test_a_close_while_calls_wait(place: Place) -> None:
    await place.live_in()
    place.server.suspend()
    calls: list[asyncio.Task[Any]] = []
    for number in range(20):
        calls.append(asyncio.create_task(place.discovery.register(spec(f"late{number}"))))
        calls.append(asyncio.create_task(place.discovery.list(endpoints())))
    await asyncio.sleep(0)
    began = time.monotonic()
    await place.discovery.close()
    assert time.monotonic() - began < CLOSED + SLACK
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, ClosedError)


async def test_nothing_is_registered_while_a_close_drains(place: Place) -> None:
    await place.live_in()
    closing = asyncio.create_task(place.discovery.close(drain=1))
    await asyncio.sleep(0)
    with pytest.raises(ClosedError, match="drain"):
        await place.discovery.register(spec("late"))
    await closing


@pytest.mark.parametrize("call", ["register", "update", "unregister", "list", "using", "synced"])
@pytest.mark.parametrize("state", [hung, half_open, no_server_any_more], ids=lambda state: state.__name__)
async def test_a_timeout_is_kept(place: Place, call: str, state: Callable[[Place], Any]) -> None:
    discovery = place.discovery
    mine = await discovery.register(spec())
    await state(place)
    calls: dict[str, Callable[[], Any]] = {
        "register": lambda: discovery.register(spec("another")),
        "update": lambda: discovery.update(mine, metadata={"a": 1}),
        "unregister": lambda: discovery.unregister(mine),
        "list": lambda: discovery.list(endpoints()),
        "using": lambda: use(discovery),
        "synced": lambda: discovery.list_and_watch(endpoints("other")).synced(),
    }
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await calls[call]()
    took = time.monotonic() - began
    print(f"asyncio.timeout(1) around {call} with {state.__name__}: {took:.2f} s")
    assert took < 1 + CANCELLED + SLACK


async def use(discovery: natsdisc.Discovery) -> None:
    async with discovery.view(endpoints("other")) as view, view.using(timeout=None):
        pass


async def test_what_was_begun_is_taken_back_in_the_background() -> None:
    async with NatsServer() as server, natsdisc.connect(server.url, lease_ttl=60) as discovery:
        mine = await discovery.register(spec())
        server.suspend()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await discovery.register(spec("late"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await discovery.unregister(mine)
        server.resume()

        async def nothing_is_there() -> bool:
            return await discovery.list(endpoints()) == [] and not discovery._tasks

        await eventually(nothing_is_there, 20)
        assert discovery.registrations == ()


async def test_what_fails_in_the_background_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        mine = await discovery.register(spec())
        server.suspend()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await discovery.unregister(mine)
        await eventually(lambda: discovery.stats().task_failures, 30)
        server.resume()
    [told] = [record for record in caplog.records if record.__dict__.get("natsdisc_event") == "task_failed"]
    assert f"unregistering {mine.id}, which nobody waits for any more, failed" in told.getMessage()


CERTIFICATES = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"


@pytest.mark.parametrize("state", [half_open, unsent_bytes, hung], ids=lambda state: state.__name__)
async def test_a_close_over_tls(tmp_path: Path, state: Callable[[Place], Any]) -> None:

    subprocess.run(["sh", str(CERTIFICATES), str(tmp_path)], check=True, capture_output=True)
    config = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}\n'
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    async with NatsServer(config=config) as server, Proxy(server.port) as proxy:
        url = f"tls://127.0.0.1:{proxy.port}"
        discovery = await natsdisc.connect(url, tls=context, error_cb=ignore)
        place = Place(server, proxy, discovery, contextlib.AsyncExitStack())
        await place.live_in()
        async with discovery:
            await state(place)
            began = time.monotonic()
        took = time.monotonic() - began
        print(f"close over TLS with {state.__name__}: {took:.2f} s")
        assert took < CLOSED + SLACK
