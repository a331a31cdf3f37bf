"""Watches that are opened and closed, cancelled or dropped leave nothing on the server or in the process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import natsdisc
from natsdisc import Query, endpoints, models
from natsdisc.server import NatsServer
from tests.rig import LONG, eventually

from .kit import DEADLINE, Plain, foreign

WATCHES = 10_000 if LONG else 1_000
AT_ONCE = 50


async def closed(discovery: natsdisc.Discovery, query: Query) -> None:
    async with discovery.list_and_watch(query) as events:
        await events.synced()


async def closed_before_it_began(discovery: natsdisc.Discovery, query: Query) -> None:
    async with discovery.list_and_watch(query):
        pass


async def cancelled(discovery: natsdisc.Discovery, query: Query) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with discovery.list_and_watch(query) as events:
            await events.synced()
            reading.set()
            async for _ in events:
                pass

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def cancelled_while_it_begins(discovery: natsdisc.Discovery, query: Query) -> None:
    async def read() -> None:
        async with discovery.list_and_watch(query) as events:
            await events.synced()

    task = asyncio.create_task(read())
    for _ in range(hash(query) % 12):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))


async def dropped(discovery: natsdisc.Discovery, query: Query) -> None:
    events = discovery.list_and_watch(query)
    await events.synced()


async def dropped_by_a_break(discovery: natsdisc.Discovery, query: Query) -> None:
    async for _ in discovery.list_and_watch(query):
        break


WAYS: tuple[Callable[..., object], ...] = (
    closed,
    closed_before_it_began,
    cancelled,
    cancelled_while_it_begins,
    dropped,
    dropped_by_a_break,
)


async def test_watches_leave_no_consumer_and_no_task() -> None:
    async with (
        NatsServer() as server,
        Plain.connected(server.url) as plain,
        natsdisc.connect(server.url) as discovery,
    ):
        await plain.make_buckets()
        for number in range(4):
            await plain.put(foreign(number))
        await closed(discovery, endpoints())
        await closed(discovery, models())
        link = discovery._store._requester  # type: ignore[attr-defined]
        before, listeners = asyncio.all_tasks(), link.listeners
        for batch in range(0, WATCHES, AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for number in range(batch, batch + AT_ONCE):
                    way = WAYS[number % len(WAYS)]
                    # Of one query, some, and some of their own; an empty one would not break.
                    query: Query = endpoints(f"ns{number % 4}") if number % 3 else endpoints()
                    if way not in (dropped_by_a_break,) and number % 5 == 0:
                        query = models(f"none{number}")
                    group.create_task(way(discovery, query))  # type: ignore[arg-type]
        gc.collect()

        async def no_consumer() -> bool:
            return await plain.consumers() == []

        def no_task() -> bool:
            return not asyncio.all_tasks() - before

        await eventually(no_task, DEADLINE)
        # Well before the server would throw out those that nobody listens to.
        await eventually(no_consumer, 8.0)
        assert not discovery._tasks
        assert not [informer for informer in discovery._informers.values() if informer.is_open]
        assert link.listeners == listeners
        assert not link._mailbox._waiting
        assert len(link.connection._subs) <= 1, "subscriptions left: all but the one for answers"
