"""`natsdisc.sync` and what processes do: fork, exit, signals, and gevent."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import natsdisc.sync
from natsdisc import RemovalReason, Removed, endpoints
from natsdisc.balance import is_draining

PATIENCE = 30.0
COMMON = """
import os, signal, sys, threading, time
import natsdisc, natsdisc.sync
from natsdisc import EndpointSpec, Transport, endpoints

url, place = sys.argv[1:]

def spec(endpoint):
    return EndpointSpec(place, "c", endpoint, transport=Transport.http("http://a"))

def connect():
    return natsdisc.sync.connect(url)
"""


@contextmanager
def running(program: str, url: str, place: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of its own; its first line is not read yet."""
    command = [sys.executable, "-X", "dev", "-c", program, url, place]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(program: str, url: str, place: str) -> list[str]:
    """Return the lines that a program prints; it ends well and writes no warning."""
    command = [sys.executable, "-X", "dev", "-c", program, url, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # A loaded machine is slow, and Python 3.12 warns of every fork of a process with threads.
    expected = ("Executing <", "  forked = os.fork()")
    errors = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(expected) and "is multi-threaded, use of fork" not in line
    ]
    assert errors == []
    return done.stdout.splitlines()


@pytest.fixture
def place(tmp_path: Path) -> str:
    return tmp_path.name.replace("_", "-")


@pytest.fixture
def view(nats_url: str, place: str) -> Iterator[natsdisc.sync.View[natsdisc.EndpointInstance]]:
    with natsdisc.sync.connect(nats_url) as discovery, discovery.view(endpoints(place)) as view:
        yield view


FORK = """
discovery = connect()
view = discovery.view(endpoints(place))
view.wait_for(0)
watch = discovery.list_and_watch(endpoints(place))
watch.synced()
told = []
view.subscribe(told.append)
parents = discovery.instance_id

def child():
    assert len(view) == 0
    mine = discovery.register(spec("child"))
    assert discovery.instance_id != parents
    view.wait_for(1, timeout=20)
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    print("child", view.pick().endpoint, len(told))
    try:
        next(watch)
    except natsdisc.ClosedError as error:
        print(str(error).replace(str(os.getppid()), "P"))
    watch.close()

sys.stdout.flush()
forked = os.fork()
if forked == 0:
    child()
    sys.exit(0)  # the end of the interpreter unregisters
os.waitpid(forked, 0)
print([one.endpoint for one in discovery.list(endpoints(place))])
# The parent's own loop, selector and view still work.
discovery.register(spec("parent"))
view.wait_for(1, timeout=20)
print("parent", view.pick().endpoint)
sys.stdout.flush()
forked = os.fork()
if forked == 0:
    for use in (lambda: discovery.list(endpoints()), lambda: discovery.register(spec("c")), view.pick):
        try:
            use()
        except natsdisc.ClosedError as error:
            assert str(os.getppid()) in str(error)
            print("refused")
    discovery.close()
    sys.exit(0)
os.waitpid(forked, 0)
print([one.endpoint for one in discovery.list(endpoints(place))])
discovery.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_connects_by_itself_unless_its_parent_registered(nats_url: str, place: str) -> None:
    assert run(COMMON + FORK, nats_url, place) == [
        "child child 1",
        f"watch of endpoints/{place} belongs to process P, which forked this one; "
        "call list_and_watch again here",
        "[]",
        "parent parent",
        "refused",
        "refused",
        "refused",
        "['parent']",
    ]


def test_the_end_of_the_interpreter_unregisters(
    nats_url: str, place: str, view: natsdisc.sync.View[natsdisc.EndpointInstance]
) -> None:
    removed: list[Removed] = []
    view.subscribe(lambda event: removed.append(event) if isinstance(event, Removed) else None)
    assert run(COMMON + "connect().register(spec('left'))\nprint('registered')", nats_url, place) == [
        "registered"
    ]
    until(lambda: [one.reason for one in removed] == [RemovalReason.UNREGISTERED])


WAITING = """
with connect() as discovery, discovery.view(endpoints(place)) as view:
    discovery.register(spec("waits"))
    try:
        print("waiting", flush=True)
        view.wait_for(9)
    except KeyboardInterrupt:
        print("interrupted", discovery.list(endpoints(place)) != [])
"""


def test_ctrl_c_ends_a_call_that_waits(
    nats_url: str, place: str, view: natsdisc.sync.View[natsdisc.EndpointInstance]
) -> None:
    with running(COMMON + WAITING, nats_url, place) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        view.wait_for(1, timeout=PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted True\n"
        assert process.wait(PATIENCE) == 0
        until(lambda: len(view) == 0)


DRAINING = """
served = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: served.set())
discovery = connect()
discovery.register(spec("drains"))
discovery.close_on_signal(drain=0.5)
print("serving", flush=True)
while not served.wait(0.1):
    pass
print("ended", flush=True)
"""


def test_a_signal_drains_first_and_then_does_what_it_did_before(
    nats_url: str, place: str, view: natsdisc.sync.View[natsdisc.EndpointInstance]
) -> None:
    with running(COMMON + DRAINING, nats_url, place) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        view.wait_for(1, timeout=PATIENCE)
        process.terminate()
        until(lambda: any(map(is_draining, view)))
        process.terminate()  # changes nothing
        until(lambda: len(view) == 0)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(PATIENCE) == 0


def test_a_signal_without_a_handler_ends_the_process(
    nats_url: str, place: str, view: natsdisc.sync.View[natsdisc.EndpointInstance]
) -> None:
    program = DRAINING.replace("signal.signal(", "print and (")
    with running(COMMON + program, nats_url, place) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
        until(lambda: len(view) == 0)


def test_signal_handlers_are_the_main_threads(nats_url: str) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        with natsdisc.sync.connect(nats_url) as discovery:
            try:
                discovery.close_on_signal(drain=1.0)
            except natsdisc.InvalidValueError as error:
                errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(PATIENCE)
    assert len(errors) == 1


GEVENT = (
    """
from gevent import monkey
monkey.patch_all()
import gevent
"""
    + COMMON
    + """
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.01)

gevent.spawn(tick)
# Two of them: a system thread runs one event loop only.
with connect() as reader, connect() as writer, reader.view(endpoints(place)) as view:
    waiting = [gevent.spawn(view.wait_for, 3, 20) for _ in range(5)]
    held = [writer.register(spec(f"e{number}")) for number in range(3)]
    gevent.joinall(waiting, timeout=20, raise_error=True)
    picks = [gevent.spawn(view.pick) for _ in range(30)]
    print(len({pick.get().endpoint for pick in picks}), len(reader.list(endpoints(place))))
    before = ticks
    try:
        view.wait_for(9, 0.5)
    except TimeoutError:
        print("others ran" if ticks - before > 5 else "others were held up")
    with reader.list_and_watch(endpoints(place)) as events:
        print(next(events).instance.endpoint)
connect().register(spec("left"))
print("end")
"""
)


def test_beside_gevent(
    nats_url: str, place: str, view: natsdisc.sync.View[natsdisc.EndpointInstance]
) -> None:
    assert run(GEVENT, nats_url, place) == ["3 3", "others ran", "e0", "end"]
    until(lambda: len(view) == 0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
