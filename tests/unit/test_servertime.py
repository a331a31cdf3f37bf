"""The server's clock, carried on by a monotonic one; the wall clock's time is never used."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import natsdisc
from natsdisc import StoreUnavailableError, clock
from natsdisc.store.jetstream import servertime
from natsdisc.store.jetstream.servertime import ServerTime

FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
PACKAGE = Path(natsdisc.__file__).parent


class Monotonic:
    """Stands in for `time.monotonic`; `sleepless` and `wall` are how far the other clocks are ahead of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleepless = 0.0
        self.wall = 5e8

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Monotonic]:
    monotonic = Monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", monotonic)
        patched.setattr(time, "time", lambda: monotonic.now + monotonic.wall)
        patched.setattr(clock, "elapsed", lambda: monotonic.now + monotonic.sleepless)
        yield monotonic


def observed(ts: str, *, sent: float = 1000.0, received: float = 1000.0) -> ServerTime:
    server_time = ServerTime()
    server_time.observe(ts, sent, received)
    return server_time


@pytest.mark.parametrize(
    ("ts", "at"),
    [
        ("2024-02-28T23:59:59Z", "2024-02-28T23:59:59.000000Z"),
        ("2024-02-28T23:59:59.5Z", "2024-02-28T23:59:59.500000Z"),
        ("2024-02-28T23:59:59.123456789Z", "2024-02-28T23:59:59.123456Z"),
        ("2024-02-29T01:59:59+02:00", "2024-02-28T23:59:59.000000Z"),
        ("2024-02-28T18:59:59-05:00", "2024-02-28T23:59:59.000000Z"),
    ],
)
def test_it_reads_what_servers_write_and_writes_utc(monotonic: Monotonic, ts: str, at: str) -> None:
    assert observed(ts).after(0.0) == at


@pytest.mark.parametrize(
    ("seconds", "at"),
    [
        (0.0, "2024-02-28T23:59:59.000000Z"),
        (1.0, "2024-02-29T00:00:00.000000Z"),
        (10.25, "2024-02-29T00:00:09.250000Z"),
        (86401.0, "2024-03-01T00:00:00.000000Z"),
    ],
)
def test_seconds_from_now_are_added(monotonic: Monotonic, seconds: float, at: str) -> None:
    assert observed("2024-02-28T23:59:59Z").after(seconds) == at


def test_what_has_passed_since_is_added(monotonic: Monotonic) -> None:
    server_time = observed("2024-01-01T00:00:00Z")
    monotonic.now += 61.5
    assert server_time.age == 61.5
    assert server_time.after(1.0) == "2024-01-01T00:01:02.500000Z"


def test_a_time_is_never_early_by_what_a_round_trip_may_hide(monotonic: Monotonic) -> None:
    server_time = observed("2024-01-01T00:00:00Z", sent=1000.0, received=1000.5)
    monotonic.now = 1000.5
    assert server_time.after(0.0) == "2024-01-01T00:00:00.500000Z"
    assert server_time.error == 0.25


def test_a_new_answer_replaces_the_old(monotonic: Monotonic) -> None:
    server_time = observed("2024-01-01T00:00:00Z")
    monotonic.now += 10
    server_time.observe("2030-01-01T00:00:00Z", monotonic.now, monotonic.now)
    assert server_time.age == 0.0
    assert server_time.after(0.0) == "2030-01-01T00:00:00.000000Z"


def test_nothing_is_known_before_the_first_answer(monotonic: Monotonic) -> None:
    server_time = ServerTime()
    assert server_time.age == server_time.error == float("inf")
    with pytest.raises(StoreUnavailableError):
        server_time.after(1.0)


def test_what_was_known_is_forgotten_with_the_connection(monotonic: Monotonic) -> None:
    """A write that is on its way then is told to try again, and not that there is a bug."""
    server_time = observed("2024-01-01T00:00:00Z")
    server_time.forget()
    with pytest.raises(StoreUnavailableError):
        server_time.after(1.0)


class TestClocksThatJump:
    """What was known is not carried on when reality contradicts it."""

    @pytest.mark.parametrize("step", [-60.0, -1.0, 1.0, 60.0])
    def test_an_answer_that_contradicts_replaces_what_was_known_however_slow_it_is(
        self, monotonic: Monotonic, step: float
    ) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        monotonic.now += 5
        later = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=5 + step)).isoformat()
        server_time.observe(later, monotonic.now - 0.4, monotonic.now + 0.4)
        monotonic.now += 0.4
        at = datetime.strptime(server_time.after(0.0), FORMAT).replace(tzinfo=UTC)
        assert abs((at - datetime.fromisoformat(later)).total_seconds()) <= 0.81

    def test_a_slow_answer_that_agrees_does_not(self, monotonic: Monotonic) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        monotonic.now += 5
        server_time.observe("2024-01-01T00:00:05.3Z", monotonic.now - 0.4, monotonic.now + 0.4)
        assert server_time.error == 0.0
        assert server_time.after(0.0) == "2024-01-01T00:00:05.000000Z"

    def test_the_sleep_of_the_machine_counts(self, monotonic: Monotonic) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        monotonic.sleepless += 15
        monotonic.now += 1
        assert server_time.age == 16
        assert server_time.after(0.0) == "2024-01-01T00:00:16.000000Z"
        server_time.observe("2024-01-01T00:00:17Z", monotonic.now, monotonic.now)
        monotonic.now += 1
        assert server_time.after(0.0) == "2024-01-01T00:00:18.000000Z"

    @pytest.mark.parametrize("name", ["sleepless", "wall"])
    @pytest.mark.parametrize("by", [-3600.0, -1.0, 1.0, 3600.0])
    def test_clocks_that_move_apart_are_a_reason_to_ask(
        self, monotonic: Monotonic, name: str, by: float
    ) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        server_time.check()
        assert server_time.age == 0.0
        setattr(monotonic, name, getattr(monotonic, name) + by)
        server_time.check()
        with pytest.raises(StoreUnavailableError):
            server_time.after(1.0)
        server_time.observe("2024-01-01T00:00:00Z", monotonic.now, monotonic.now)
        server_time.check()
        assert server_time.age == 0.0

    def test_clocks_that_drift_are_not(self, monotonic: Monotonic) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        for _ in range(100):
            monotonic.now += 60
            monotonic.wall += 0.03  # 500 ppm, as fast as a clock is slewed
            server_time.check()
            assert server_time.age < float("inf")

    @pytest.mark.parametrize("by", [-60.0, -1.0])
    def test_an_answer_from_the_future_is_a_reason_to_ask(self, monotonic: Monotonic, by: float) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        monotonic.sleepless += by
        assert server_time.age == float("inf")
        server_time.observe("2024-01-01T00:00:00.3Z", monotonic.now - 0.4, monotonic.now + 0.4)
        assert server_time.age < 1
        assert server_time.error == pytest.approx(0.4)

    def test_a_doubt_asks_again_however_young_the_answer_is(self, monotonic: Monotonic) -> None:
        """A sweep may have asked right before the clock was set."""
        server_time = observed("2024-01-01T00:00:00Z")
        server_time.doubt()
        assert server_time.age == float("inf")
        server_time.observe("2024-01-01T00:01:00Z", monotonic.now, monotonic.now)
        for _ in range(1000):  # the fences that failed for the same reason
            server_time.doubt()
        assert server_time.age == 0.0
        monotonic.now += 2.5
        server_time.doubt()
        assert server_time.age == float("inf")

    def test_the_distance_to_a_time(self, monotonic: Monotonic) -> None:
        server_time = observed("2024-01-01T00:00:00Z")
        monotonic.now += 5
        assert server_time.until("2024-01-01T00:00:10Z") == 5
        assert server_time.until("2024-01-01T00:00:01.5") == -3.5
        for text in ("", "soon", "2024-13-01T00:00:00Z"):
            with pytest.raises(ValueError):
                server_time.until(text)


@pytest.mark.parametrize("hours", [-1, 1, 24 * 365])
def test_a_wall_clock_that_is_off_changes_nothing(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    wrong = time.time() + hours * 3600
    monkeypatch.setattr(time, "time", lambda: wrong)
    ts = datetime(2024, 1, 1, tzinfo=UTC)
    now = time.monotonic()
    server_time = observed(ts.isoformat(), sent=now, received=now)
    at = datetime.strptime(server_time.after(10.0), FORMAT).replace(tzinfo=UTC)
    assert ts + timedelta(seconds=10) <= at < ts + timedelta(seconds=10 + 60)


WALL_CLOCKS = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "now", "utcnow", "today"}


def wall_clocks_in(source: str) -> set[str]:
    """The calls and imports in `source` that ask the wall clock."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found |= {node.attr, ast.unparse(node)} & WALL_CLOCKS
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names} & WALL_CLOCKS
    return found


@pytest.mark.parametrize(
    "path",
    [
        # The command line's admin.py tells how far off this machine's clock is, and signed.py signs the time:
        # a server's administrator must not choose it. No lease depends on either.
        *sorted(p for p in (PACKAGE / "store").rglob("*.py") if p.name not in ("admin.py", "signed.py")),
        PACKAGE / "registrar.py",
        PACKAGE / "lease.py",
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_nothing_that_keeps_a_lease_asks_the_wall_clock(path: Path) -> None:
    assert wall_clocks_in(path.read_text("utf-8")) == set()


def test_the_search_for_wall_clocks_finds_them() -> None:
    for source in (
        "import time\ntime.time()",
        "from time import time",
        "datetime.now(UTC)",
        "datetime.utcnow()",
    ):
        assert wall_clocks_in(source), source
    assert wall_clocks_in(Path(servertime.__file__).read_text("utf-8")) == set()
