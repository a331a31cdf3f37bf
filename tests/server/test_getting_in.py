"""A service and its server start in any order; it is ready when it says so, and leaves within its bound."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from pathlib import Path

import pytest
from nats.aio.client import Client

import natsdisc
from natsdisc import (
    ClosedError,
    Discovery,
    EndpointSpec,
    JetStreamStore,
    NotReadyError,
    Registration,
    State,
    Transport,
    endpoints,
)
from natsdisc.server import NatsServer
from tests.rig import eventually

from .test_connecting import free_port

# One second is promised, on a machine without other work.
REGISTERED_WITHIN_S = 3.0
CLOSED_WITHIN_S = 3.0


def spec(name: str = "ep") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


async def registered(registration: Registration) -> float:
    """Return how many seconds it takes from now."""
    began = time.monotonic()
    async with asyncio.timeout(20):
        await registration.active()
    return time.monotonic() - began


async def test_a_connection_of_its_own_that_waits_for_the_server() -> None:
    port = free_port()
    made: asyncio.Future[Registration] = asyncio.get_running_loop().create_future()

    async def service() -> None:
        async with natsdisc.connect(f"nats://127.0.0.1:{port}", wait=math.inf) as discovery:
            made.set_result(discovery.announce(spec()))
            await asyncio.Event().wait()

    serving = asyncio.create_task(service())
    try:
        await asyncio.sleep(0.3)  # it has tried in vain
        async with NatsServer(port=port):
            began = time.monotonic()
            async with asyncio.timeout(20):
                await (await made).active()
            took = time.monotonic() - began
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        assert took < REGISTERED_WITHIN_S
    finally:
        serving.cancel()


async def test_a_users_connection_that_is_made_later() -> None:
    port, connection = free_port(), Client()
    discovery = Discovery(JetStreamStore(connection))
    registration = discovery.announce(spec())
    with pytest.raises(NotReadyError, match="pending"):
        await discovery.check(timeout=0.3)
    assert registration.state is State.PENDING
    async with NatsServer(port=port):
        await connection.connect(f"nats://127.0.0.1:{port}")
        assert await registered(registration) < REGISTERED_WITHIN_S
        assert len(await discovery.list(endpoints())) == 1
        await discovery.check(timeout=5.0)
        await discovery.close()
        await connection.close()


async def test_a_users_connection_that_waits_for_the_server() -> None:
    port, connection = free_port(), Client()
    connecting = asyncio.create_task(
        connection.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    )
    discovery = Discovery(JetStreamStore(connection))
    registration = discovery.announce(spec())
    await asyncio.sleep(0.3)
    assert registration.state is State.PENDING
    async with NatsServer(port=port):
        assert await registered(registration) < REGISTERED_WITHIN_S
        await connecting
        await discovery.close()
        await connection.close()


async def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    """Announced while it is away; a hung server fails the check too."""
    async with NatsServer(store_dir=tmp_path) as server, natsdisc.connect(server.url) as discovery:
        first = await discovery.register(spec("first"))
        view = discovery.view(endpoints())
        await discovery.check(timeout=5.0)
        await asyncio.to_thread(server.suspend)
        began = time.monotonic()
        with pytest.raises(NotReadyError, match="server does not answer"):
            await discovery.check(timeout=0.5)
        assert time.monotonic() - began < 2.5
        await asyncio.to_thread(server.resume)
        await discovery.check(timeout=10.0)
        await asyncio.to_thread(server.kill)
        registration = discovery.announce(spec("second"))
        with pytest.raises(NotReadyError) as caught:
            await discovery.check(timeout=0.5)
        assert any("second" in reason for reason in caught.value.reasons)
        assert registration.state is State.PENDING
        await asyncio.to_thread(server.restart)
        assert await registered(registration) < REGISTERED_WITHIN_S + 2  # the restart itself
        await discovery.check(timeout=10.0)
        await eventually(lambda: len(view) == 2)
        assert first in view


@pytest.mark.parametrize("state", ["hung", "killed"])
@pytest.mark.parametrize("keep", [True, False])
async def test_leaving_is_bounded_and_what_waits_hears_of_it(state: str, keep: bool) -> None:
    async with NatsServer() as server:
        discovery = await natsdisc.connect(server.url)
        await discovery.register(spec("held"), health=forever, health_interval=60.0)
        view = discovery.view(endpoints())
        await view.wait_for(1, timeout=10)
        await asyncio.to_thread(server.suspend if state == "hung" else server.kill)
        registration = discovery.announce(spec("pending"), health=forever, health_interval=60.0)
        waiting = [asyncio.create_task(registration.active()), asyncio.create_task(view.wait_for(2))]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await discovery.close(keep=keep)
        took = time.monotonic() - began
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClosedError, ClosedError]
        assert took < CLOSED_WITHIN_S
        assert not [task for task in asyncio.all_tasks() if "health" in task.get_name()]
        if state == "hung":
            await asyncio.to_thread(server.resume)


async def forever() -> None:
    await asyncio.Event().wait()
