"""Processes, servers and machines that are held up, and clocks that are set: at most one Removed."""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

import natsdisc
from natsdisc import Added, EndpointSpec, RemovalReason, Removed, State, Transport, clock, endpoints
from natsdisc.server import NatsServer
from natsdisc.store.jetstream import JetStreamStore
from natsdisc.testing import crash
from tests.rig import LONG, eventually

from .service import running

PATIENCE = 60.0
# The suspension that the issue names, or a fifth of it.
TTL, SUSPENDED = (10.0, 15.0) if LONG else (2.0, 3.0)


@pytest.fixture
def prefix() -> str:
    return "test" + secrets.token_hex(6)


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with NatsServer() as server:
        yield server


def spec(name: str = "ep") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


class Recorder:
    """Follows all endpoints, without a grace."""

    def __init__(self, discovery: natsdisc.Discovery) -> None:
        self.events: list[natsdisc.Event] = []
        self._watch = discovery.list_and_watch(endpoints())
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for event in self._watch:
            self.events.append(event)

    @property
    def removed(self) -> list[natsdisc.Event]:
        return [event for event in self.events if isinstance(event, Removed)]

    @property
    def live(self) -> int:
        return len(self.events) - 2 * len(self.removed)

    async def aclose(self) -> None:
        await self._watch.aclose()
        await self._task


# nats-py drops the socket of a connection attempt that a suspended server accepted and did not answer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_suspension_costs_one_removed_at_most(server: NatsServer, prefix: str, who: str) -> None:
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, expiry_grace=0) as watcher,
        running([server.url], prefix, ttl=TTL, count=3) as service,
    ):
        recorder = Recorder(watcher)
        await eventually(lambda: recorder.live == 3, timeout=PATIENCE)
        if who == "client":
            service.signal(signal.SIGSTOP)
        else:
            server.suspend()
        await asyncio.sleep(SUSPENDED)  # this is the fault, not a way to wait for something
        if who == "client":
            service.signal(signal.SIGCONT)
        else:
            server.resume()
        # Two ttls after it is over everything is as before, and stayed so: a marker passes after all of that.
        await eventually(lambda: recorder.live == 3, timeout=PATIENCE)
        async with natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=TTL) as marker:
            await marker.register(spec("marker"))
            await eventually(lambda: marker.stats().renewals.count >= 7, timeout=PATIENCE)
            await eventually(lambda: recorder.live == 4, timeout=PATIENCE)
        for number in range(3):
            removals = [event for event in recorder.removed if getattr(event, "id").endpoint == f"ep{number}"]  # noqa: B009
            assert len(removals) <= 1
        await recorder.aclose()
    gc.collect()


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns a function that takes seconds off the machine's monotonic clocks.

    A clock that stood still for a minute, and a server whose clock was set ahead by one, look the same here.
    """
    lost, real = 0.0, clock.elapsed

    def take(seconds: float) -> None:
        nonlocal lost
        lost += seconds

    monkeypatch.setattr(clock, "elapsed", lambda: real() - lost)
    return take


def set_ahead(discovery: natsdisc.Discovery, seconds: float) -> None:
    """Have `discovery` know a time that the server's clock, which was set, is `seconds` ahead of."""
    store = discovery._store
    assert isinstance(store, JetStreamStore)
    for bucket in store._buckets.values():
        assert bucket._leases._clock._at is not None
        bucket._leases._clock._at -= timedelta(seconds=seconds)


@pytest.mark.parametrize("seconds", [15.0, 60.0])
async def test_a_time_that_became_wrong_in_silence_costs_one_removed_at_most(
    server: NatsServer, prefix: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the failed fence tells: leases end as soon as they are renewed."""
    monkeypatch.setattr(clock.Jumps, "seen", lambda self: False)
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix, expiry_grace=0) as watcher,
    ):
        mine = await service.register(spec())
        recorder = Recorder(watcher)
        await eventually(lambda: recorder.live == 1, timeout=PATIENCE)
        await eventually(
            lambda: service.stats().renewals.count and not service._registrar._upkeep.renewals._tasks
        )
        set_ahead(service, seconds)
        # A sweep that asks for the time just then finds out before any renewal does.
        await eventually(lambda: service.stats().renewals.count >= 10, timeout=PATIENCE)
        await eventually(lambda: recorder.live == 1, timeout=PATIENCE)
        assert recorder.removed in ([], [Removed(mine.id, RemovalReason.EXPIRED)])
        assert service.stats().fence_failures == len(recorder.removed)
        assert service.registrations[0].state is State.ACTIVE
        await recorder.aclose()


@pytest.mark.parametrize("seconds", [15.0, 60.0])
async def test_a_clock_that_went_back_in_silence_costs_nothing(
    server: NatsServer,
    prefix: str,
    seconds: float,
    lose: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last answer then lies in the future, so the server is asked again before the next renewal."""
    monkeypatch.setattr(clock.Jumps, "seen", lambda self: False)
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix, expiry_grace=0) as watcher,
    ):
        mine = await service.register(spec())
        recorder = Recorder(watcher)
        await eventually(lambda: recorder.live == 1, timeout=PATIENCE)
        lose(seconds)
        await eventually(lambda: service.stats().renewals.count >= 6, timeout=PATIENCE)
        assert recorder.events == [Added(mine)]
        assert service.stats().fence_failures == 0
        await recorder.aclose()


@pytest.mark.parametrize("seconds", [-60.0, 15.0, 60.0])
async def test_a_machine_that_slept_asks_for_the_time_at_once(
    server: NatsServer, prefix: str, seconds: float, lose: Callable[[float], None]
) -> None:
    """Its clocks moved apart: nothing is removed that lives, and nothing stays that died."""
    async with (
        natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=2) as service,
        natsdisc.connect(server.url, bucket_prefix=prefix, expiry_grace=0) as watcher,
    ):
        mine = await service.register(spec())
        recorder = Recorder(watcher)
        await eventually(lambda: recorder.live == 1, timeout=PATIENCE)
        lose(seconds)
        beats = service.stats().renewals.count
        await eventually(lambda: service.stats().renewals.count >= beats + 9, timeout=PATIENCE)
        assert recorder.events == [Added(mine)]
        assert service.stats().fence_failures == 0
        await crash(service)
        died = time.monotonic()
        await eventually(lambda: recorder.live == 0, timeout=PATIENCE)
        assert time.monotonic() - died < 15, "the lease did not end a minute late"
        await recorder.aclose()


async def test_a_jump_has_everything_renewed_at_once(
    server: NatsServer, prefix: str, lose: Callable[[float], None]
) -> None:
    async with natsdisc.connect(server.url, bucket_prefix=prefix, lease_ttl=600) as service:
        await service.register(spec())
        lose(15)
        await eventually(lambda: service.stats().renewals.count == 1, timeout=PATIENCE)
