"""Small things that waited for ever, kept what was over, or said nothing. On both stores."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import secrets
import weakref
from typing import Any

import nats
import pytest

import natsdisc
import natsdisc.entry
import natsdisc.store
import natsdisc.testing
from natsdisc import (
    Added,
    ClosedError,
    EndpointSpec,
    InvalidValueError,
    ManualClock,
    MemoryStore,
    ModelSpec,
    NoInstanceError,
    Transport,
    endpoints,
    models,
)
from natsdisc.balance import Random
from natsdisc.store import Write
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 15.0


def spec(name: str = "ep") -> EndpointSpec:
    return EndpointSpec("ns", "comp", name, transport=Transport.nats("addr"))


class TestAWatchThatNobodyHolds:
    async def test_is_not_collected_while_somebody_waits(self, registry: Registry) -> None:
        service, client = await registry.join(), await registry.join()
        waiting: Any = asyncio.ensure_future(anext(client.list_and_watch(endpoints())))
        async with asyncio.timeout(PATIENCE):
            while not client.stats().queries or not client.stats().queries[endpoints()].synced:
                await asyncio.sleep(0.001)
                gc.collect()
            mine = await service.register(spec())
            assert await waiting == Added(mine)
        await eventually(lambda: not client.stats().queries)

    async def test_is_collected_when_the_waiting_is_cancelled(self, registry: Registry) -> None:
        client = await registry.join()
        waiting: Any = asyncio.ensure_future(anext(client.list_and_watch(endpoints())))
        await eventually(lambda: client.stats().queries)
        waiting.cancel()
        await asyncio.wait((waiting,))
        del waiting
        gc.collect()
        await eventually(lambda: not client.stats().queries)


class TestWhatIsOverLetsGo:
    async def test_of_its_picture(self, registry: Registry) -> None:
        """The picture is as large as the registry; who keeps the closed watch must not keep that too."""
        service, client = await registry.join(), await registry.join()
        for number in range(20):
            await service.register(ModelSpec("ns", "comp", f"ep{number}", card={"n": number}))
        watch = client.list_and_watch(models())
        await watch.synced()
        informer = watch._informer
        assert informer is not None
        picture = weakref.ref(informer.picture)
        await watch.aclose()
        gc.collect()
        assert picture() is None
        assert not watch._queue._pending
        assert [event async for event in watch] == []

    async def test_when_the_discovery_is_closed(self, registry: Registry) -> None:
        discovery = await registry.join()
        await discovery.register(spec())
        watch, view = discovery.list_and_watch(endpoints()), discovery.view(endpoints("ns"))
        await watch.synced()
        await view.wait_for(1)
        await discovery.close()
        assert watch._informer is not None
        assert len(watch._informer.picture) == 0
        assert len(view) == 1  # a view stays as it was


class TestCallbacks:
    async def asynchronous(self, _: object) -> None:
        raise AssertionError("not reached")

    class Callable:
        async def __call__(self, _: object) -> None:
            raise AssertionError("not reached")

    async def test_that_nothing_would_await_are_refused(self, registry: Registry) -> None:
        discovery = await registry.join()
        async with discovery.view(endpoints()) as view:
            for wrong in (
                self.asynchronous,
                functools.partial(self.asynchronous),
                self.Callable(),
                None,
                "text",
                3,
            ):
                with pytest.raises(InvalidValueError, match="callback of a view must be a"):
                    view.subscribe(wrong)  # type: ignore[arg-type]
                if wrong is not None:
                    with pytest.raises(InvalidValueError, match="on_lost must be a"):
                        natsdisc.Discovery(MemoryStore(), on_lost=wrong)  # type: ignore[arg-type]
            heard: list[object] = []
            rights: list[Any] = [print, str, heard.append, functools.partial(print, 1), lambda event: None]
            for right in rights:
                view.subscribe(right)()

    async def test_that_return_a_coroutine_are_told(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, client = await registry.join(), await registry.join()
        async with client.view(endpoints()) as view:
            view.subscribe(lambda event: self.asynchronous(event))
            await service.register(spec())
            await eventually(lambda: client.stats().task_failures == 1, PATIENCE)
        assert "returned a coroutine that nothing awaits" in caplog.text

    async def test_of_a_view_that_has_ended(self, registry: Registry) -> None:
        discovery = await registry.join()
        async with discovery.view(endpoints()) as view:
            pass
        with pytest.raises(ClosedError, match="endpoints was closed"):
            view.subscribe(print)
        other = discovery.view(endpoints())
        await other.wait_for(0)
        assert other._informer._reader is not None
        other._informer.fail(natsdisc.PermissionDeniedError("not any more"))
        with pytest.raises(natsdisc.PermissionDeniedError, match="not any more"):
            other.subscribe(print)
        await other.aclose()

    async def test_that_fail_do_not_flood_the_log(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, client = await registry.join(), await registry.join()

        def fail(_: object) -> None:
            raise RuntimeError("the user's mistake")

        mine = await service.register(spec())
        async with client.view(endpoints()) as view:
            view.subscribe(fail)
            for number in range(300):
                mine = await service.update(mine, metadata={"number": number})
            await eventually(lambda: view.get(mine.id) == mine, PATIENCE)
            failures = client.stats().task_failures
            assert failures >= 100
        await client.close()
        lines = [record for record in caplog.records if record.name.startswith("natsdisc")]
        assert len(lines) == 101
        assert "more failures of callbacks were not logged one by one" in lines[-1].getMessage()


class TestErrorsSayWhatIsThere:
    async def test_nobody(self, registry: Registry) -> None:
        client = await registry.join()
        view = client.view(endpoints("shop", "cart"))
        with pytest.raises(
            NoInstanceError, match="endpoints/shop/cart: 0 instances, the first picture is not"
        ):
            view.pick()
        await view.wait_for(0)
        with pytest.raises(NoInstanceError, match="endpoints/shop/cart: 0 instances, in sync"):
            view.pick("key")
        with pytest.raises(NoInstanceError, match="endpoints/shop/cart: 0 instances, in sync"):
            async with view.using(timeout=0.01):
                pass
        with pytest.raises(
            TimeoutError, match=r"waited 0.01 s for 2 or more of .*cart: 0 instances, in sync"
        ):
            await view.wait_for(2, timeout=0.01)
        await view.aclose()
        with pytest.raises(NoInstanceError, match="0 instances, the view was closed"):
            view.pick()

    async def test_nobody_whom_the_balance_takes(self, registry: Registry) -> None:
        class Picky(Random):
            def pick(self, instances: Any) -> Any:
                raise NoInstanceError("not these")

        discovery = await registry.join()
        mine = [await discovery.register(spec(name)) for name in "abc"]
        async with discovery.view(endpoints(), balance=Picky()) as view:
            with pytest.raises(NoInstanceError, match="endpoints: 3 instances, in sync"):
                view.pick()
            draining = await discovery.drain(mine[0])
            await eventually(lambda: view.get(draining.id) == draining)
            view.report_failure(mine[1].id)
            with pytest.raises(NoInstanceError, match=r"2 serving, 1 draining, 1 set aside .*, in sync"):
                view.pick()
            view.report_failure(mine[2].id)
            with pytest.raises(NoInstanceError, match=r"2 serving, 1 draining, 2 set aside .*, in sync"):
                view.pick()


class TestLogFloods:
    """A writer who may write anything must not fill the log."""

    @pytest.mark.parametrize("what", ["invalid", "forged"])
    async def test_of_what_others_write(self, caplog: pytest.LogCaptureFixture, what: str) -> None:
        caplog.set_level(logging.INFO)
        store = MemoryStore(clock=(clock := ManualClock()))
        async with natsdisc.Discovery(store) as client, client.view(endpoints()) as view:
            bucket: Any = store.bucket("v1_instances")
            reader = view._informer

            def write(key: str) -> None:
                if what == "invalid":
                    bucket._write(Write(key, b"rubbish", owner="somebody"))
                else:
                    reader.keep(key)

            for _ in range(2_000):
                write("ns.comp.ep.1")
            for number in range(3_000):
                write(f"ns.comp.ep.{number + 2:x}")
            await clock.advance(0)
            counted = client.stats().invalid if what == "invalid" else client.stats().forged
            assert counted == 5_000
            lines = [record for record in caplog.records if record.__dict__.get("natsdisc_event") == what]
            assert len(lines) == 100
            assert len({record.__dict__["natsdisc_key"] for record in lines}) == 100
            caplog.clear()
            await clock.advance(61)
            write("ns.comp.ep.1")
            await clock.advance(0)
            [summed] = [r for r in caplog.records if r.__dict__["natsdisc_event"] == "notices_left_out"]
            assert summed.__dict__["natsdisc_count"] == 2_901

    @pytest.mark.parametrize("what", ["invalid", "forged"])
    async def test_of_what_others_write_on_a_server(
        self, caplog: pytest.LogCaptureFixture, nats_url: str, what: str
    ) -> None:
        prefix = f"flood{secrets.token_hex(6)}"
        plain = await nats.connect(nats_url)
        async with natsdisc.connect(nats_url, bucket_prefix=prefix) as client:
            await client.register(spec("first"))
            async with client.view(endpoints("ns")) as view:
                # A message that names a lease of another key is not to be believed.
                lease = f"$NATSDISC.LEASE.{prefix}_v1_instances.ns.comp.other.1"
                headers = (
                    {"Nats-Scheduler": lease, "Nats-Schedule-Next": "purge"} if what == "forged" else None
                )
                for number in range(2_000):
                    subject = f"$KV.{prefix}_v1_instances.ns.comp.ep.{number + 1:x}"
                    await plain.publish(subject, b"rubbish", headers=headers)
                await plain.flush()
                await eventually(lambda: int(getattr(client.stats(), what)) >= 2_000, PATIENCE)
                assert len(view) == 1
        lines = [record for record in caplog.records if record.__dict__.get("natsdisc_event") == what]
        assert len(lines) == 100
        assert [r for r in caplog.records if r.__dict__.get("natsdisc_event") == "notices_left_out"]
        await plain.close()
        await natsdisc.testing.delete_registry(nats_url, prefix)

    async def test_of_queries_that_become_stale(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with natsdisc.Discovery(MemoryStore(clock=ManualClock())) as client:
            views = [client.view(endpoints(f"ns{number}")) for number in range(500)]
            for view in views:
                await view.wait_for(0)
            for view in views:
                view._informer.stale(
                    natsdisc.store.ResyncReason.SILENCE, natsdisc.StoreUnavailableError("nothing heard")
                )
            for view in views:
                view._informer.begin()
                view._informer.end()
            assert client.stats().resyncs == {"silence": 500}
        lines = [record for record in caplog.records if record.name.startswith("natsdisc")]
        assert len(lines) == 100 + 100 + 1


class TestNothingEndsTheRest:
    async def test_a_follower_that_fails(self, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
        """A bug in one follower keeps the news from nobody, and the removals that are due still come."""

        class Broken:
            def __init__(self) -> None:
                self.calls = 0

            def changed(self, changes: object) -> None:
                self.calls += 1
                raise RuntimeError("a bug")

            def left(self, key: str) -> None:
                raise RuntimeError("a bug")

            def synced(self) -> None:
                raise RuntimeError("a bug")

            def ended(self, error: object) -> None:
                raise RuntimeError("a bug")

        service, client = await registry.join(lease_ttl=1), await registry.join(expiry_grace=0.1)
        view = client.view(endpoints())
        view._informer._followers = ((Broken(), None), *view._informer._followers)
        mine = await service.register(spec())
        await view.wait_for(1, timeout=PATIENCE)
        await natsdisc.testing.crash(service)
        await eventually(lambda: mine not in view, PATIENCE)
        assert client.stats().task_failures >= 2
        await client.close()
        assert "a follower of endpoints failed" in caplog.text

    async def test_a_value_that_breaks_the_decoder(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bug in reading one value must not end what reads all the others."""
        service, client = await registry.join(), await registry.join()
        decode = natsdisc.entry.decode

        def broken(kind: Any, key: str, value: bytes) -> Any:
            if ".bad." in key:
                raise KeyError("a bug")
            return decode(kind, key, value)

        monkeypatch.setattr(natsdisc.entry, "decode", broken)
        async with client.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
            await service.register(spec("bad"))
            mine = await service.register(spec("good"))
            assert await anext(events) == Added(mine)
            assert await client.list(endpoints()) == [mine]
        assert client.stats().invalid >= 2
