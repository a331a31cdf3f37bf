"""One setting of servers, and every way in which instances end: what comes back after nodes were killed.

`run` registers instances in a component for each `Case` and ends them. It waits until their tombstones have
expired too, kills nodes with SIGKILL and starts them again. It measures how long fresh readers, and plain KV
clients on each node, show anything but the instances that live. The truth is what this process registered and
ended itself: no server is asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nats.errors

from natsdisc import Discovery, DiscoveryError, EndpointSpec, Instance, Transport, endpoints
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import Cluster, eventually

from .copies import Copy, read_copies
from .ghost_reader import Reader, Sight, cancelled
from .kills import ENDED, purge
from .kit import STREAMS, Follower, Plain, opened_in

__all__ = ["CASES", "Case", "Outcome", "Setting", "run"]

STREAM = STREAMS[0]
RENEWED = ("zero", "one", "many")
RENEWALS = {"zero": 0, "one": 1, "many": 4}
EACH = 6  # instances that end in each case
LIVE_TTL, ENDING_TTL, NEVER_RENEWED_TTL = 6.0, 2.0, 6.0
TOMBSTONE_TTL = 2.0
READERS, LATE_READERS = 20, 6
PREPARING = (
    120.0  # seconds that a machine with much to do may need until all is as it has to be before the kill
)
LIMIT = 75.0  # seconds after which what is wrong counts as wrong for ever
HOLD = 3.0  # seconds for which everything has to stay right
LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Setting:
    """The servers and what is done to them; `version` None is the newest nats-server."""

    nodes: Literal[1, 3]
    storage: Literal["file", "memory"]
    killed: Literal["one", "two", "all"]
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.version or 'newest'} {self.nodes}-node {self.storage} kill-{self.killed}"


@dataclass(frozen=True, slots=True)
class Case:
    """How instances end, how often they renew before, and whether their component has a living process."""

    ended: str
    renewed: str
    living: bool

    @property
    def component(self) -> str:
        """The component that holds these instances and no others."""
        return f"{self.ended}-{self.renewed}-{'living' if self.living else 'dead'}"


@dataclass(slots=True)
class Outcome:
    """For how many seconds a kind of reader was wrong, and how many ghosts it showed."""

    seconds: dict[str, float] = field(default_factory=dict)
    ghosts: dict[str, int] = field(default_factory=dict)
    removed: int = 0  # live instances that a long-lived watcher was told to be gone
    late: int = 0  # readers that were opened after all was right, and were wrong

    def problems(self, bound: float) -> list[str]:
        """What must not be, if every reader has to be right after `bound` seconds."""
        found = [f"{kind} wrong for {took:.1f} s" for kind, took in self.seconds.items() if took > bound]
        if self.removed:
            found.append(f"{self.removed} live instances reported Removed")
        if self.late:
            found.append(f"{self.late} late readers wrong")
        return found


CASES = tuple(Case(*each) for each in itertools.product(ENDED, RENEWED, (True, False)))


async def run(
    setting: Setting, binary: Path | None, *, down: float = 1.0, seed: int = 0, cases: Sequence[Case] = CASES
) -> dict[Case, Outcome]:
    """Return what was seen of each case. Raises AssertionError when the setting does not come about."""
    async with contextlib.AsyncExitStack() as opened:
        servers = await opened.enter_async_context(_servers(setting, binary))
        nodes = servers.nodes if isinstance(servers, Cluster) else [servers]
        urls = [node.url for node in nodes]
        options: dict[str, object] = {
            "storage": setting.storage,
            "replicas": setting.nodes,
            "tombstone_ttl": TOMBSTONE_TTL,
        }
        places = sorted({case.component for case in cases if case.living}) or ["elsewhere"]
        owners = await asyncio.gather(
            *(opened_in(opened, urls, lease_ttl=LIVE_TTL, **options) for _ in places)
        )
        registered = await asyncio.gather(
            *(owner.register(_spec(place, "lives")) for owner, place in zip(owners, places, strict=True))
        )
        truth: dict[str, Instance] = {Plain.subject(instance.id): instance for instance in registered}
        watchers = [Follower(await opened_in(opened, [url]), endpoints()) for url in urls]
        for watcher in watchers:
            opened.push_async_callback(watcher.aclose)
        plain = await opened.enter_async_context(Plain.connected(urls))
        endings = [
            _register_and_end(ended, renewed, urls, plain, cases, options)
            for ended, renewed in sorted({(case.ended, case.renewed) for case in cases})
        ]
        await asyncio.gather(*endings)
        await _settled(plain, setting.nodes, truth)

        removed_before = [dict(watcher.removed) for watcher in watchers]
        await _kill_and_restart(servers, nodes, setting.killed, down, random.Random(seed))
        outcomes = await _observe(plain, urls, truth, cases)
        for watcher, before in zip(watchers, removed_before, strict=True):
            assert not watcher.problems, watcher.problems
            for instance in registered:
                told = watcher.removed[instance.id] - before.get(instance.id, 0)
                for case, outcome in outcomes.items():
                    if told and case.component == instance.component:
                        outcome.removed += told
        return outcomes


@contextlib.asynccontextmanager
async def _servers(setting: Setting, binary: Path | None) -> AsyncIterator[NatsServer | Cluster]:
    async with NatsServer(binary) if setting.nodes == 1 else Cluster(binary) as servers:
        yield servers


def _spec(component: str, endpoint: str) -> EndpointSpec:
    return EndpointSpec("ghosts", component, endpoint, transport=Transport.nats("x"))


async def _register_and_end(
    ended: str, renewed: str, urls: list[str], plain: Plain, cases: Iterable[Case], options: dict[str, object]
) -> None:
    """Register instances for the cases that end this way, renew them, and end them."""
    places = [case.component for case in cases if (case.ended, case.renewed) == (ended, renewed)]
    # A lease of six seconds is not renewed before its owner ends, even on a machine with much to do.
    ttl = NEVER_RENEWED_TTL if renewed == "zero" else ENDING_TTL
    async with contextlib.AsyncExitStack() as opened:
        owner = await opened_in(opened, urls, lease_ttl=ttl, **options)
        specs = [_spec(place, f"e{number}") for place in places for number in range(EACH)]
        instances = await asyncio.gather(*map(owner.register, specs))
        wanted = RENEWALS[renewed] * len(instances)
        await eventually(lambda: owner.stats().renewals.count >= wanted, PREPARING)
        if ended == "unregistered":
            await owner.close()
            return
        await crash(owner)
        if ended == "purged":
            await purge(plain, instances)


async def _settled(plain: Plain, nodes: int, truth: dict[str, Instance]) -> None:
    """Wait until each node's copy holds the live instances and no trace of any other, no tombstone either."""

    async def nothing_else() -> bool:
        with contextlib.suppress(nats.errors.Error, AssertionError):
            copies = await read_copies(plain.client, STREAM, nodes)
            return all(copy.values.keys() == truth.keys() for copy in copies.values()) and all(
                copy.messages == len(truth) for copy in copies.values()
            )
        return False

    await eventually(nothing_else, PREPARING)


async def _kill_and_restart(
    servers: NatsServer | Cluster, nodes: list[NatsServer], killed: str, down: float, chance: random.Random
) -> None:
    """Return when the killed nodes are back and the stream has a leader again."""
    count = {"one": 1, "two": 2, "all": len(nodes)}[killed]
    victims = chance.sample(nodes, min(count, len(nodes)))
    for node in victims:
        node.kill()
    await asyncio.sleep(down)
    await asyncio.gather(*(asyncio.to_thread(node.restart) for node in victims))
    if isinstance(servers, Cluster):
        await servers.ready()
        await servers.leader(STREAM)


async def _observe(
    plain: Plain, urls: list[str], truth: dict[str, Instance], cases: Iterable[Case]
) -> dict[Case, Outcome]:
    started = time.monotonic()
    outcomes = {case: Outcome() for case in cases}
    copies = _Copies(plain, len(urls))
    right_since: float | None = None
    async with contextlib.AsyncExitStack() as opened:
        await opened.enter_async_context(copies.looking())
        readers = [
            await opened.enter_async_context(Reader(urls[number % len(urls)]).reading())
            for number in range(READERS)
        ]
        while (now := time.monotonic() - started) < LIMIT:
            sights = [sight for reader in readers for sight in reader.sights()] + copies.sights()
            wrong = [_compare(sight, truth, outcomes, now) for sight in sights]
            if any(wrong):
                right_since = None
            elif right_since is None:
                right_since = now
            elif now - right_since >= HOLD:
                break
            await asyncio.sleep(LOOK_EVERY / 2)
    problems = [problem for reader in readers for problem in reader.problems]
    assert not problems, problems
    await _look_late(urls, truth, outcomes)
    return outcomes


def _compare(sight: Sight, truth: dict[str, Instance], outcomes: dict[Case, Outcome], now: float) -> bool:
    """Note for each case whether this reader shows its component as it is; return whether it does not."""
    anything = False
    for case, outcome in outcomes.items():
        part = f".{case.component}."
        alive = {subject for subject in truth if part in subject}
        seen = None if sight.subjects is None else {subject for subject in sight.subjects if part in subject}
        if seen != alive:
            anything = True
            outcome.seconds[sight.kind] = max(outcome.seconds.get(sight.kind, 0.0), now)
            ghosts = len((seen or set()) - alive)
            outcome.ghosts[sight.kind] = max(outcome.ghosts.get(sight.kind, 0), ghosts)
    return anything


async def _look_late(urls: list[str], truth: dict[str, Instance], outcomes: dict[Case, Outcome]) -> None:
    """Open more readers at the end: each has to be right with its first answer, and all of it."""
    for number in range(LATE_READERS):
        async with contextlib.AsyncExitStack() as opened:
            try:
                discovery: Discovery = await opened_in(opened, [urls[number % len(urls)]])
                listed = {Plain.subject(instance.id) for instance in await discovery.list(endpoints())}
            except DiscoveryError:
                listed = set()
        for case, outcome in outcomes.items():
            part = f".{case.component}."
            outcome.late += {s for s in listed if part in s} != {s for s in truth if part in s}


class _Copies:
    """What a plain KV client reads on each node, again and again."""

    def __init__(self, plain: Plain, nodes: int) -> None:
        self._plain, self._nodes = plain, nodes
        self._last: dict[str, Copy] | None = None

    def sights(self) -> list[Sight]:
        """Return what the nodes delivered last; one that says nothing when they could not be read."""
        if self._last is None:
            return [Sight("plain", None)]
        return [Sight("plain", copy.values.keys()) for copy in self._last.values()]

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Read them until the end of this context."""
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            await cancelled(task)

    async def _look(self) -> None:
        while True:
            try:
                self._last = await read_copies(self._plain.client, STREAM, self._nodes)
            except (nats.errors.Error, AssertionError):
                self._last = None
            await asyncio.sleep(LOOK_EVERY)
