"""The goals that natsdisc was written for, and whether this run met them. Told, never asserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .bench import Samples
from .figures import shown, slower_by, summarise


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal: whether it was met, or None when this run did not measure it."""

    goal: str
    met: bool | None
    numbers: str


class _UnmeasuredError(Exception):
    """This run has no such number."""


class _Numbers:
    """Medians and ratios of a run; asking for what was not measured ends the goal."""

    def __init__(self, measures: Mapping[str, Samples]) -> None:
        self._measures = measures

    def median(self, measure: str, peer: str = "ours") -> float:
        return summarise(self._runs(measure, peer)).median

    def worst(self, measure: str, peer: str = "ours") -> float:
        return max(self._runs(measure, peer))

    def ratio(self, measure: str, other: str, ours: str = "ours") -> float:
        """How many times slower the other is."""
        return slower_by(self._runs(measure, other), self._runs(measure, ours)).median

    def find(self, beginning: str) -> str:
        for name in self._measures:
            if name.startswith(beginning):
                return name
        raise _UnmeasuredError

    def _runs(self, measure: str, peer: str) -> list[float]:
        try:
            return self._measures[measure].by_peer[peer]
        except KeyError:
            raise _UnmeasuredError from None


def judge(measures: Mapping[str, Samples]) -> list[Verdict]:
    """Every goal, in the order in which they were set."""
    numbers = _Numbers(measures)
    verdicts = []
    for goal, check in _GOALS:
        try:
            met, text = check(numbers)
        except _UnmeasuredError:
            verdicts.append(Verdict(goal, None, "not measured in this run"))
        else:
            verdicts.append(Verdict(goal, met, text))
    return verdicts


def _at_least(
    measure: str, other: str, times: float, ours: str = "ours"
) -> Callable[[_Numbers], tuple[bool, str]]:
    def check(numbers: _Numbers) -> tuple[bool, str]:
        ratio = numbers.ratio(measure, other, ours)
        ms = numbers.median(measure, ours), numbers.median(measure, other)
        return ratio >= times, f"{shown(ratio)} times ({shown(ms[0])} and {shown(ms[1])} ms)"

    return check


def _floor(numbers: _Numbers) -> tuple[bool, str]:
    times = 1 / numbers.ratio("cold sync of 10,000", "floor")
    return (
        times <= 3,
        f"{shown(times)} times the floor of {shown(numbers.median('cold sync of 10,000', 'floor'))} ms",
    )


def _list(size: str, limit: float) -> Callable[[_Numbers], tuple[bool, str]]:
    def check(numbers: _Numbers) -> tuple[bool, str]:
        measure = f"list of {size}"
        ours, plain = numbers.median(measure), numbers.median(measure, "plain_kv")
        return ours <= limit and ours < plain, f"{shown(ours)} ms, plain KV watch {shown(plain)} ms"

    return check


def _large(numbers: _Numbers) -> tuple[bool, str]:
    small, large = (numbers.median(f"cold sync of {size}") for size in ("10,000", "100,000"))
    return large <= 11 * small, f"{shown(large / small)} times ({shown(small)} and {shown(large)} ms)"


def _blocked(numbers: _Numbers) -> tuple[bool, str]:
    measure = "event loop blocked while 100,000 sync"
    own, nc = numbers.median(measure), numbers.median(measure, "ours_nc")
    cpu = numbers.median("most CPU in one go while 100,000 sync")
    text = f"{shown(own)} ms ({shown(cpu)} ms of CPU); {shown(nc)} ms on a connection the user made"
    return max(own, nc) <= 50, text


def _register_publish(numbers: _Numbers) -> tuple[bool, str]:
    measure = "register with lease, p50"
    times = 1 / numbers.ratio(measure, "publish")
    return times <= 2.5, f"{shown(times)} publishes ({shown(numbers.median(measure))} ms)"


def _register_peers(numbers: _Numbers) -> tuple[bool, str]:
    measure = "register with lease, p50"
    ours, etcd, zk = (numbers.median(measure, peer) for peer in ("ours", "etcd", "zookeeper"))
    return ours < min(etcd, zk), f"{shown(ours)} ms, etcd {shown(etcd)} ms, ZooKeeper {shown(zk)} ms"


def _rate(numbers: _Numbers) -> tuple[bool, str]:
    rate = numbers.median("register with lease, many at once")
    return rate >= 2_500, f"{shown(rate)}/s"


def _tail(numbers: _Numbers) -> tuple[bool, str]:
    times = numbers.median("event latency, p99") / numbers.median("event latency, p50")
    return times <= 5, f"p99 is {shown(times)} times p50"


def _fanout(numbers: _Numbers) -> tuple[bool, str]:
    return _at_least(numbers.find("fan-out"), "plain_kv", 3)(numbers)


def _crash(numbers: _Numbers) -> tuple[bool, str]:
    measure = numbers.find("crash")
    ours, etcd = numbers.worst(measure), numbers.median(measure, "etcd")
    return ours <= 100, f"at worst {shown(ours)} ms after ttl and grace; etcd {shown(etcd)} ms after its ttl"


def _quiet(numbers: _Numbers) -> tuple[bool, str]:
    count = numbers.worst(numbers.find("stream messages to an idle watcher"))
    return count == 0, f"{count:g} stream messages (idle heartbeats are the consumer's, every 1.5 s)"


def _leases(numbers: _Numbers) -> tuple[bool, str]:
    share = numbers.median("CPU of 1,000 leased registrations, ttl 10 s, in the client")
    return share < 5, f"{shown(share)} %"


def _resync(numbers: _Numbers) -> tuple[bool, str]:
    again = numbers.median(numbers.find("client CPU of a resync"))
    cold = numbers.median(numbers.find("client CPU of a first sync"))
    events = numbers.worst("events of that resync")
    return (
        again <= cold and events == 0,
        f"{shown(again)} ms of CPU, cold {shown(cold)} ms; {events:g} events",
    )


_COLD = "cold sync of 10,000"
_GOALS: tuple[tuple[str, Callable[[_Numbers], tuple[bool, str]]], ...] = (
    ("cold sync of 10,000 no slower than etcd `get_prefix` and decode", _at_least(_COLD, "etcd", 1)),
    ("cold sync of 10,000 at least 5 times faster than `kv.watchall()`", _at_least(_COLD, "plain_kv", 5)),
    ("cold sync of 10,000 at most 3 times the raw floor", _floor),
    (
        "on a connection the user made at least 2.5 times faster than `kv.watchall()`",
        _at_least(_COLD, "plain_kv", 2.5, "ours_nc"),
    ),
    ("`list` of 10 in at most 1.5 ms, and below plain KV watch", _list("10", 1.5)),
    ("`list` of 1,000 in at most 25 ms, and below plain KV watch", _list("1,000", 25)),
    ("100,000 in at most 11 times the time of 10,000", _large),
    ("event loop never blocked for more than 50 ms while 100,000 sync", _blocked),
    ("register with lease in at most 2.5 plain acknowledged publishes", _register_publish),
    ("register with lease below etcd's put and ZooKeeper's ephemeral create", _register_peers),
    ("at least 2,500 registrations with lease a second from one process", _rate),
    ("event latency at most half of etcd's", _at_least("event latency, p50", "etcd", 2)),
    ("event latency p99 at most 5 times p50", _tail),
    ("fan-out at least 3 times faster than `KeyValue.watch`", _fanout),
    ("a crash is told within 0.1 s of ttl and grace", _crash),
    ("no message to an idle watcher", _quiet),
    ("1,000 leased registrations below 5 % of a core in the client", _leases),
    ("resync with nothing changed: at most a cold sync, no events", _resync),
)
