"""`natsdisc.sync` on both stores: the same as the asynchronous Discovery, from any thread."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, Protocol

import pytest

import natsdisc
import natsdisc.sync
from natsdisc import (
    Added,
    ClosedError,
    EndpointSpec,
    InvalidValueError,
    NoInstanceError,
    Removed,
    Transport,
    WrongLoopError,
    endpoints,
)
from natsdisc.balance import is_draining


class Join(Protocol):
    """Opens one more Discovery of the registry that a test is about."""

    def __call__(self, instance_id: int | None = None) -> natsdisc.sync.Discovery: ...


PATIENCE = 30.0
SHOP = endpoints("shop")


def spec(endpoint: str, address: str = "http://a") -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.http(address))


@pytest.fixture(params=["memory", "server"])
def join(request: pytest.FixtureRequest) -> Iterator[Join]:
    """Open one more Discovery of one registry."""
    opened: list[natsdisc.sync.Discovery] = []
    store, prefix = natsdisc.MemoryStore(), f"sync{secrets.token_hex(6)}"
    url = request.getfixturevalue("nats_url") if request.param == "server" else None

    def join(instance_id: int | None = None) -> natsdisc.sync.Discovery:
        if url is None:
            make = partial(natsdisc.Discovery, store, instance_id=instance_id)
            opened.append(natsdisc.sync.Discovery(make))
        else:
            opened.append(natsdisc.sync.connect(url, bucket_prefix=prefix, instance_id=instance_id))
        return opened[-1]

    before = set(threading.enumerate())
    yield join
    for discovery in opened:
        discovery.close()
    assert {one.name for one in set(threading.enumerate()) - before} == set()


@pytest.fixture
def discovery(join: Join) -> natsdisc.sync.Discovery:
    return join()


def test_register_update_drain_and_unregister(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    other = join()
    assert discovery.list(SHOP) == []
    mine = discovery.register(spec("pay"), timeout=PATIENCE)
    assert mine.instance_id == discovery.instance_id
    assert [one.state for one in discovery.registrations] == ["active"]
    assert other.list(SHOP, timeout=PATIENCE) == [mine]
    heavy = discovery.update(mine, metadata={"weight": 3})
    assert other.list(SHOP) == [heavy]
    assert is_draining(discovery.drain(heavy))
    discovery.unregister(mine)
    assert other.list(SHOP) == []
    assert sum(discovery.stats().registrations.values()) == 0


def test_a_watch_is_a_plain_iterator(discovery: natsdisc.sync.Discovery) -> None:
    one = discovery.register(spec("one"))
    with discovery.list_and_watch(SHOP) as events:
        events.synced(PATIENCE)
        assert next(events) == Added(one)
        with pytest.raises(TimeoutError, match="waiting for an event"):
            events.next(timeout=0.01)
        two = discovery.register(spec("two"))
        assert events.next(PATIENCE) == Added(two)
        discovery.unregister(one)
        [removed] = islice(events, 1)
        assert isinstance(removed, Removed)
        assert removed.id == one.id
        # Another thread ends the iteration.
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, events)
            events.close()
            assert rest.result(PATIENCE) == []
    assert list(events) == []


def test_a_view(discovery: natsdisc.sync.Discovery) -> None:
    with discovery.view(SHOP) as view:
        assert view.synced
        assert len(view) == 0
        with pytest.raises(NoInstanceError, match="endpoints/shop"):
            view.pick()
        with pytest.raises(TimeoutError, match="0 instances"):
            view.wait_for(1, timeout=0.01)
        seen = view.version
        mine = discovery.register(spec("pay"))
        view.wait_for(1, timeout=PATIENCE)
        assert view.changed(seen, timeout=PATIENCE) == view.version
        assert [*view] == [mine] == list(view.instances)
        assert mine in view
        assert len(view) == 1
        assert view.get(mine.id) == view.pick() == view.pick("key") == mine
        assert view.age < PATIENCE
        assert view.select(lambda one: one.endpoint) == {mine.id: "pay"}
        with view.using(timeout=1) as used:
            assert used == mine
        view.report_failure(mine.id)
        assert view.pick() == mine  # there is no other one
    # It stays as it was, also after the Discovery is closed.
    discovery.close()
    assert view.instances == (mine,)
    assert view.pick() == mine
    with pytest.raises(ClosedError):
        view.wait_for(2)


def test_callbacks_may_wait_and_may_use_the_discovery(discovery: natsdisc.sync.Discovery) -> None:
    seen: list[str] = []
    done = threading.Event()

    def tell(event: object) -> None:
        if isinstance(event, Added):
            seen.append(f"{event.instance.endpoint} of {len(discovery.list(SHOP))}")
            if len(seen) == 2:
                done.set()
            raise ValueError("logged, and breaks nothing")

    with discovery.view(SHOP) as view:
        unsubscribe = view.subscribe(tell)
        discovery.register(spec("one"))
        view.wait_for(1, timeout=PATIENCE)
        discovery.register(spec("two"))
        assert done.wait(PATIENCE)
        assert [text.split()[0] for text in seen] == ["one", "two"]
        unsubscribe()
        unsubscribe()
        with pytest.raises(InvalidValueError):
            view.subscribe(None)  # type: ignore[arg-type]


def test_a_call_on_the_loop_thread_is_told(discovery: natsdisc.sync.Discovery) -> None:
    class Calling:
        def pick(self, instances: object) -> object:
            return discovery.list(SHOP)

    discovery.register(spec("pay"))
    balance: Any = Calling()
    with (
        discovery.view(SHOP, balance=balance) as view,
        pytest.raises(WrongLoopError, match="would wait for itself"),
    ):
        view.pick()


def test_many_threads(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    """Threads pick and read while instances come and go; none sees a broken picture."""
    writer = join()
    stay = writer.register(spec("stays"))
    stop = threading.Event()

    def read(view: natsdisc.sync.View[natsdisc.EndpointInstance]) -> int:
        reads = 0
        while not stop.is_set():
            assert view.pick().namespace == "shop"
            ids = [one.id for one in view]
            assert stay.id in ids
            assert len(set(ids)) == len(ids)
            assert stay in view
            reads += 1
        return reads

    with discovery.view(SHOP) as view, ThreadPoolExecutor(4) as pool:
        view.wait_for(1, PATIENCE)
        reading = [pool.submit(read, view) for _ in range(4)]
        try:
            for number in range(30):
                writer.unregister(writer.register(spec(f"e{number % 5}")))
        finally:
            stop.set()
        assert all(one.result(PATIENCE) > 0 for one in reading)


def test_closing(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    other = join()
    with pytest.raises(InvalidValueError):
        discovery.close(drain=-1)
    with discovery:
        discovery.register(spec("pay"))
        view = discovery.view(SHOP)
        watch = discovery.list_and_watch(SHOP)
        waiting = ThreadPoolExecutor(1)
        waits = waiting.submit(view.wait_for, 5)
    with pytest.raises(ClosedError):
        waits.result(PATIENCE)
    waiting.shutdown()
    assert other.list(SHOP) == []
    for use in (
        lambda: discovery.list(SHOP),
        lambda: discovery.register(spec("more")),
        lambda: discovery.view(SHOP),
        lambda: discovery.registrations,
    ):
        with pytest.raises(ClosedError):
            use()
    assert list(watch) == []
    discovery.close()
    watch.close()
    view.close()


def test_a_drain_goes_on_serving(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    other = join()
    discovery.register(spec("pay"))
    with other.view(SHOP) as view:
        view.wait_for(1, timeout=PATIENCE)
        closing = threading.Thread(target=discovery.close, kwargs={"drain": 0.5})
        closing.start()
        deadline = time.monotonic() + PATIENCE
        while not any(map(is_draining, view)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert closing.is_alive()
        closing.join(PATIENCE)
        assert not closing.is_alive()


def test_what_cannot_connect_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(natsdisc.StoreUnavailableError):
        natsdisc.sync.connect("nats://127.0.0.1:9")
    with pytest.raises(InvalidValueError):
        natsdisc.sync.connect("nats://127.0.0.1:9", on_lost="no function")  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_announce_returns_at_once(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    registration = discovery.announce(spec("pay"), lease_ttl=60.0)
    mine = registration.active(timeout=PATIENCE)
    assert (registration.id, registration.instance) == (mine.id, mine)
    assert (registration.state, registration.error, registration.lease_ttl) == ("active", None, 60.0)
    assert registration.revision > 0
    assert discovery.registrations == (registration,)
    assert len({registration, *discovery.registrations}) == 1
    discovery.check(timeout=PATIENCE)
    [(id, left)] = join().leases(SHOP).items()
    assert id == mine.id
    assert 0 < left <= 60
    discovery.unregister(mine)
    assert registration.state == "failed"
    with pytest.raises(ClosedError, match="unregistered"):
        registration.active(timeout=PATIENCE)
    other = discovery.announce(spec("other"))
    discovery.close()
    assert other.state == "failed"
    with pytest.raises(ClosedError):
        other.active(timeout=PATIENCE)


def test_registered_holds_for_a_block(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    other = join()
    with discovery.registered(spec("pay"), timeout=PATIENCE) as mine:
        with discovery.registered(spec("pay")) as again:
            assert again == mine
        assert other.list(SHOP) == [mine]
    assert other.list(SHOP) == []
    wrong = RuntimeError("passes unchanged")
    with pytest.raises(RuntimeError) as raised, discovery.registered(spec("pay")):
        raise wrong
    assert raised.value is wrong
    assert other.list(SHOP) == []
    with discovery.registered(spec("pay")):
        discovery.close()
    assert other.list(SHOP) == []


def test_status_services_and_where(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    other = join()
    mine = discovery.register(spec("pay"))
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()
    with other.view(SHOP, where=lambda one: one.status == "disabled", panic_threshold=0.0) as view:
        assert len(view) == 0
        disabled = other.set_status(mine, "disabled", timeout=PATIENCE)
        view.wait_for(1, timeout=PATIENCE)
        assert not view.panicking
        view.subscribe(seen.put, replay=True)
        assert seen.get(timeout=PATIENCE) == Added(disabled)
    assert other.list(SHOP, where=lambda one: one.status == "serving") == []
    with other.list_and_watch(SHOP, where=lambda one: one.endpoint == "pay") as events:
        assert events.next(PATIENCE) == Added(disabled)
    [service] = other.services(timeout=PATIENCE)
    assert (service.endpoint, service.instances) == ("pay", 1)
    with pytest.raises(InvalidValueError, match="status must be one of"):
        discovery.set_status(mine, "asleep")


def test_check_names_what_is_not_well(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    discovery.check(timeout=PATIENCE)
    mine = join().register(spec("pay"))
    theirs = EndpointSpec("shop", "cart", "pay", transport=Transport.http("http://b"))
    twin = join(mine.instance_id)
    failed = twin.announce(theirs)
    with pytest.raises(natsdisc.AlreadyRegisteredError):
        failed.active(timeout=PATIENCE)
    assert isinstance(failed.error, natsdisc.AlreadyRegisteredError)
    with pytest.raises(natsdisc.NotReadyError, match="failed"):
        twin.check(timeout=PATIENCE)


def test_call_tries_another_instance(discovery: natsdisc.sync.Discovery, join: Join) -> None:
    """The function runs in the caller's thread; the loop thread decides who is called."""
    discovery.register(spec("one"))
    discovery.register(spec("two"))
    asked: list[str] = []

    def first_fails(one: natsdisc.EndpointInstance) -> str:
        assert threading.current_thread() is threading.main_thread()
        asked.append(one.endpoint)
        if len(asked) == 1:
            raise ConnectionError("refused")
        assert len(discovery.list(SHOP)) == 2  # it may use the Discovery
        return f"answer of {one.endpoint}"

    def fails(one: natsdisc.EndpointInstance) -> str:
        asked.append(one.endpoint)
        raise KeyError("not retried by default")

    with join().view(SHOP) as view:
        view.wait_for(2, timeout=PATIENCE)
        assert view.call(first_fails, timeout=PATIENCE) == f"answer of {asked[1]}"
        assert {*asked} == {"one", "two"}
        asked.clear()
        with pytest.raises(KeyError):
            view.call(fails)
        assert len(asked) == 1
        asked.clear()
        with pytest.raises(KeyError) as raised:
            view.call(fails, attempts=3, retry_on=KeyError)
        assert len(asked) == 3
        assert raised.value.__notes__
        asked.clear()
        with pytest.raises(TimeoutError):
            view.call(lambda one: time.sleep(0.2), attempts=1, timeout=0.01)
        with pytest.raises(InvalidValueError):
            view.call(fails, attempts=0)
    with discovery.view(endpoints("empty")) as nothing, pytest.raises(NoInstanceError):
        nothing.call(fails)
    assert asked == []


def test_callbacks_get_a_registration_for_any_thread(nats_url: str) -> None:
    told: queue.SimpleQueue[natsdisc.sync.Registration] = queue.SimpleQueue()
    prefix = f"sync{secrets.token_hex(6)}"
    with natsdisc.sync.connect(nats_url, bucket_prefix=prefix, on_state=told.put) as discovery:
        registration = discovery.announce(spec("pay"))
        one = told.get(timeout=PATIENCE)
        assert one == registration
        assert one.active(timeout=PATIENCE).id == one.id
