"""`natsdisc demo`: a registry at work, with three workers of which one leaves and one is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Self

import click

from natsdisc import (
    Discovery,
    EndpointInstanceId,
    InstanceId,
    ModelCardInstanceId,
    connect,
    endpoints,
    models,
)
from natsdisc.model import Query
from natsdisc.server import NatsServer

from .demo_fleet import Fleet
from .demo_screen import Registry, Screen
from .demo_worker import COMPONENT, ENDPOINT, NAMESPACE
from .failure import Failure
from .run import Stopped, run

__all__ = ["demo"]

_LEASE_TTL = 2.0  # short, so that nobody waits long for the expiry
# Time for a person to look (seconds); nothing depends on it. The first is longer than a lease, which shows
# that the leases of the living are renewed.
_FIRST_LOOK = 3.0
_SECOND_LOOK = 1.5
# The whole takes about ten seconds. On a machine too busy to get there in this time the demo gives up.
_TIME_LIMIT = 25.0


def _endpoint(name: str) -> InstanceId:
    return EndpointInstanceId(NAMESPACE, COMPONENT, ENDPOINT, int(name, 16))


def _model(name: str) -> InstanceId:
    return ModelCardInstanceId(NAMESPACE, COMPONENT, ENDPOINT, int(name, 16))


_STAYS, _LEAVES, _DIES = "a1", "b2", "c3"
_ARRIVE = {_endpoint(name): "live" for name in (_STAYS, _LEAVES, _DIES)} | {_model(_DIES): "live"}
_LEAVE = {_endpoint(_LEAVES): "unregistered"}
_DIE = {_endpoint(_DIES): "expired", _model(_DIES): "expired"}
_SUMMARY = "as expected: 4 added, 1 unregistered, 2 expired, 1 left"
_NEXT = (
    "try it yourself: natsdisc serve; in a second terminal natsdisc top; in a third "
    "natsdisc register shop/cart/web -t http=http://127.0.0.1:8000 -- python3 -m http.server 8000"
)
_EXPECTED = Counter([*((id, "added") for id in _ARRIVE), *_LEAVE.items(), *_DIE.items()])


@click.command(short_help="Watch a registry at work, without a server of your own.")
@click.option("--keep", is_flag=True, help="Go on until Ctrl-C.")
def demo(keep: bool) -> None:
    """Watch a registry at work; needs no server, and ends by itself in about ten seconds.

    It starts a nats-server and three worker processes that register. One worker leaves and unregisters;
    one is ended with kill -9, and its entries go by themselves when its lease ends. The exit code says
    whether just that was seen.
    """
    story = _Story()
    try:
        run(story.tell(keep), needs_reader=True)
    except Stopped:
        story.say_stopped()
        if not story.complete:
            raise


class _Story:
    """The demo from the start to its summary."""

    def __init__(self) -> None:
        self.complete = False
        self._registry = Registry()
        self._fleet = Fleet()
        self._screen = Screen(self._registry, self._fleet.workers)
        self._waiting_for = ""

    async def tell(self, keep: bool) -> None:
        """Everything. Raises Failure when it is not as expected, and what the library raises."""
        screen = self._screen
        async with NatsServer() as server, self._fleet, connect(server.url) as discovery:
            with screen.open():
                screen.say("server", f"nats-server {server.version} on {server.url}")
                try:
                    async with asyncio.TaskGroup() as group:
                        await self._play(server.url, discovery, keep, _Background(group))
                except BaseExceptionGroup as failures:
                    raise failures.exceptions[0] from None
        screen.say("next", _NEXT)
        screen.say("done", _SUMMARY)

    def say_stopped(self) -> None:
        """Tell that Ctrl-C was heard, and what came of it."""
        self._screen.say(
            "stopped", _SUMMARY if self.complete else "before it was done; all processes have ended"
        )

    async def _play(self, url: str, discovery: Discovery, keep: bool, background: _Background) -> None:
        with background:
            for query in (endpoints(), models()):
                background.start(self._show(discovery, query))
            background.start(self._screen.animate())
            try:
                async with asyncio.timeout(_TIME_LIMIT):
                    await self._arrive(url, background)
                    await asyncio.sleep(_FIRST_LOOK)
                    await self._one_leaves()
                    await asyncio.sleep(_SECOND_LOOK)
                    await self._one_dies()
            except TimeoutError:
                raise Failure(f"the demo took more than {_TIME_LIMIT:g} s: {self._waiting_for}") from None
            self._check()
            if keep:
                self._screen.say("keep", f"until Ctrl-C; meanwhile try: natsdisc watch -s {url}")
                await asyncio.Event().wait()

    async def _show(self, discovery: Discovery, query: Query) -> None:
        async with discovery.list_and_watch(query) as events:
            async for event in events:
                self._screen.event(event)

    async def _arrive(self, url: str, background: _Background) -> None:
        self._waiting_for = "the workers did not register"
        for name in (_STAYS, _LEAVES, _DIES):
            arguments = [url, name, f"--ttl={_LEASE_TTL:g}"]
            worker = await self._fleet.start(name, *arguments, *(["--model"] if name == _DIES else []))
            background.start(worker.guard())
            self._screen.say("start", f"worker {name} (pid {worker.pid}) with a lease of {_LEASE_TTL:g} s")
        await self._registry.until(_ARRIVE)

    async def _one_leaves(self) -> None:
        self._waiting_for = f"worker {_LEAVES} did not unregister"
        worker = self._fleet.find(_LEAVES)
        self._screen.say("SIGTERM", f"to worker {_LEAVES} (pid {worker.pid}): it unregisters, and ends")
        since = self._screen.elapsed
        await asyncio.gather(worker.leave(), self._registry.until(_LEAVE))
        self._screen.say("gone", f"{self._screen.elapsed - since:.2f} s after SIGTERM")

    async def _one_dies(self) -> None:
        self._waiting_for = f"the entries of worker {_DIES} did not expire"
        worker = self._fleet.find(_DIES)
        self._screen.say("kill -9", f"to worker {_DIES} (pid {worker.pid}): now its lease has to end")
        since = self._screen.elapsed
        await worker.kill()
        await self._registry.until(_DIE)
        self._screen.say("gone", f"{self._screen.elapsed - since:.1f} s after kill -9")

    def _check(self) -> None:
        seen = Counter(self._registry.history)
        if seen != _EXPECTED:
            more = ", ".join(f"{id} {what}" for id, what in (seen - _EXPECTED).elements())
            less = ", ".join(f"{id} {what}" for id, what in (_EXPECTED - seen).elements())
            raise Failure(f"not as expected; too much: {more or 'nothing'}; missing: {less or 'nothing'}")
        self.complete = True


class _Background:
    """Tasks of a group that end with the block."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._group.create_task(work))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
