"""The guarantees of `list_and_watch`, as its docstring numbers them, on both stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

import natsdisc
from natsdisc import (
    Added,
    EndpointSpec,
    PermissionDeniedError,
    RemovalReason,
    Removed,
    Transport,
    endpoints,
)
from natsdisc.store import Reader, Sink, Store
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 10.0


def endpoint(name: str = "ep", at: str = "addr") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats(at))


async def next_event(watch: natsdisc.Watch) -> natsdisc.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


class LossyStore:
    """Another store, whose watches can lose what happens, and then look anew as a reader does that doubts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.deaf = False
        self._watches: list[tuple[str, str, Sink]] = []
        self._readers: list[Reader] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def bucket(self, name: str) -> Any:
        return _LossyBucket(self, self._store, name)

    def open(self, name: str, prefix: str, sink: Sink) -> Reader:
        self._watches.append((name, prefix, sink))
        reader = self._store.bucket(name).watch(prefix, cast(Sink, _LossySink(self, sink)))
        self._readers.append(reader)
        return reader

    async def look_anew(self) -> None:
        """Hear again, and begin with a snapshot."""
        for reader in self._readers:
            await reader.aclose()
        watches, self._watches, self._readers = self._watches, [], []
        self.deaf = False
        for watch in watches:
            self.open(*watch)

    def fail(self, error: natsdisc.DiscoveryError) -> None:
        for _, _, sink in self._watches:
            sink.fail(error)

    async def aclose(self) -> None:
        for reader in self._readers:
            await reader.aclose()


class _LossyBucket:
    def __init__(self, lossy: LossyStore, store: Store, name: str) -> None:
        self._lossy, self._bucket, self._name = lossy, store.bucket(name), name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        return self._lossy.open(self._name, prefix, sink)


class _LossySink:
    def __init__(self, lossy: LossyStore, sink: Sink) -> None:
        self._lossy, self._sink = lossy, sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        if not self._lossy.deaf:
            self._sink.put(entries)

    def delete(self, key: str, reason: RemovalReason) -> None:
        if not self._lossy.deaf:
            self._sink.delete(key, reason)


async def test_1_every_live_instance_comes_first_as_added_then_synced(registry: Registry) -> None:
    discovery = await registry.join()
    there = [await discovery.register(endpoint(name=f"ep{number}")) for number in range(50)]
    async with discovery.list_and_watch(endpoints()) as events:
        async with asyncio.timeout(PATIENCE):
            await events.synced()
        seen = [await next_event(events) for _ in there]
        assert sorted(seen, key=repr) == sorted(map(Added, there), key=repr)


async def test_2_a_tombstone_of_an_id_that_was_never_added_is_no_event(registry: Registry) -> None:
    discovery = await registry.join()
    await discovery.unregister(await discovery.register(endpoint(name="before")))
    async with discovery.list_and_watch(endpoints()) as events:
        await events.synced()
        after = await discovery.register(endpoint(name="after"))
        assert await next_event(events) == Added(after)


async def test_2_removed_comes_only_after_added_and_added_on_a_live_id_means_changed(
    registry: Registry,
) -> None:
    discovery = await registry.join()
    async with discovery.list_and_watch(endpoints()) as events:
        await events.synced()
        mine = await discovery.register(endpoint())
        assert await next_event(events) == Added(mine)
        assert await discovery.register(endpoint()) == mine  # the same again is no change
        changed = await discovery.update(mine, metadata={"zone": "a"})
        assert await next_event(events) == Added(changed)
        await discovery.unregister(changed)
        assert await next_event(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
        again = await discovery.register(endpoint())
        assert await next_event(events) == Added(again)


async def test_3_there_is_no_order_across_ids(registry: Registry) -> None:
    """What changed last may be told first: only its own events are in order."""
    discovery = await registry.join()
    async with (
        discovery.list_and_watch(endpoints()) as events,
        discovery.list_and_watch(endpoints()) as quick,
    ):
        # A bucket that is just being made is read as a snapshot, in the order of the last writes.
        there = await discovery.register(endpoint("there"))
        assert await next_event(events) == await next_event(quick) == Added(there)
        first = await discovery.register(endpoint("first"))
        second = await discovery.register(endpoint("second"))
        changed = await discovery.update(first, transport=Transport.nats("moved"))
        while await next_event(quick) != Added(changed):
            pass
        assert [await next_event(events) for _ in range(2)] == [Added(changed), Added(second)]


async def test_4_the_last_state_is_never_skipped_by_a_slow_reader(registry: Registry) -> None:
    discovery = await registry.join()
    mine = await discovery.register(endpoint(at="0"))
    async with (
        discovery.list_and_watch(endpoints()) as events,
        discovery.list_and_watch(endpoints()) as quick,
    ):
        assert await next_event(events) == Added(mine)
        assert await next_event(quick) == Added(mine)
        for number in range(1, 50):
            mine = await discovery.update(mine, transport=Transport.nats(str(number)))
        while await next_event(quick) != Added(mine):
            pass
        before = discovery.stats()
        assert await next_event(events) == Added(mine)  # one event for fifty changes
        assert discovery.stats().events == before.events + 1
        assert before.conflated >= 48
        gone = await discovery.register(endpoint(name="gone"))
        await discovery.unregister(gone)
        last = await discovery.register(endpoint(name="last"))
        while await next_event(quick) != Added(last):
            pass
        assert await next_event(events) == Added(last)  # what came and went between two looks is no event


async def test_5_a_view_changes_before_the_event_is_read(registry: Registry) -> None:
    discovery = await registry.join(expiry_grace=0.0)
    async with (
        discovery.list_and_watch(endpoints()) as events,
        discovery.view(endpoints()) as view,
    ):
        for number in range(20):
            mine = await discovery.register(endpoint(at=str(number)))
            assert await next_event(events) == Added(mine)
            assert view.instances == (mine,)
            mine = await discovery.update(mine, metadata={"number": number})
            assert await next_event(events) == Added(mine)
            assert view.get(mine.id) == mine
            assert view.instances == (mine,)
            await discovery.unregister(mine)
            assert await next_event(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
            assert not len(view)
            assert not view.instances


async def test_6_after_any_loss_the_difference_is_reported(registry: Registry) -> None:
    other = await registry.join()
    lossy = LossyStore(await registry.store())
    async with (
        contextlib.aclosing(lossy),
        natsdisc.Discovery(cast(Store, lossy), expiry_grace=0.2) as discovery,
    ):
        stays = await other.register(endpoint("stays"))
        moves = await other.register(endpoint("moves"))
        leaves = await other.register(endpoint("leaves"))
        async with discovery.list_and_watch(endpoints()) as events:
            before = [await next_event(events) for _ in range(3)]
            assert set(map(repr, before)) == set(map(repr, map(Added, (stays, moves, leaves))))
            lossy.deaf = True
            moved = await other.update(moves, transport=Transport.nats("elsewhere"))
            await other.unregister(leaves)
            comes = await other.register(endpoint("comes"))
            await other.unregister(await other.register(endpoint("comes and goes")))
            await lossy.look_anew()
            after = [await next_event(events) for _ in range(3)]
            assert {event.id for event in after if isinstance(event, Removed)} == {leaves.id}
            assert {repr(event) for event in after if isinstance(event, Added)} == {
                repr(Added(moved)),
                repr(Added(comes)),
            }
            last = await other.register(endpoint("last"))
            assert await next_event(events) == Added(last), "nothing is told twice"


async def test_7_a_close_ends_quietly(registry: Registry) -> None:
    discovery = await registry.join()
    watch = discovery.list_and_watch(endpoints())
    await watch.synced()
    waiting = asyncio.create_task(anext(watch, "the end"))
    await asyncio.sleep(0)
    await watch.aclose()
    assert await waiting == "the end"
    assert [event async for event in watch] == []


async def test_7_a_failure_that_cannot_be_repaired_raises(registry: Registry) -> None:
    lossy = LossyStore(await registry.store())
    async with contextlib.aclosing(lossy), natsdisc.Discovery(cast(Store, lossy)) as discovery:
        mine = await discovery.register(endpoint())
        watch = discovery.list_and_watch(endpoints())
        assert await next_event(watch) == Added(mine)
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        lossy.fail(PermissionDeniedError("not any more"))
        for reading in (waiting, anext(watch), anext(watch)):
            with pytest.raises(PermissionDeniedError, match="not any more"):
                await reading
        await watch.aclose()


async def test_a_list_cannot_be_merged_with_a_watch_that_is_not_read(registry: Registry) -> None:
    """What docs/guarantees.md warns of, and the way it shows instead."""
    discovery, other = await registry.join(), await registry.join()
    async with discovery.list_and_watch(endpoints()) as events, discovery.view(endpoints()) as view:
        await events.synced()
        merged: set[object] = set()
        applied: set[object] = {instance.id for instance in view.instances}

        def apply(event: natsdisc.Event) -> None:
            if isinstance(event, Added):
                applied.add(event.instance.id)
            else:
                applied.discard(event.id)

        view.subscribe(apply)
        mine = await other.register(endpoint("leaves"))
        merged |= {instance.id for instance in await discovery.list(endpoints())}
        await eventually(lambda: mine in view)
        await other.unregister(mine)
        await eventually(lambda: mine not in view)
        last = await other.register(endpoint("last"))
        event = await next_event(events)
        assert event == Added(last), "nothing is said of the one that came and went"
        assert mine.id in merged
        assert applied == {last.id}
