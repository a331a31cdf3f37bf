"""Signatures are verified in slices; a sink hears everything in its order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from natsdisc import RemovalReason
from natsdisc.errors import StoreUnavailableError
from natsdisc.signing import Signature, Trust, UntrustedError
from natsdisc.store import ResyncReason, SignedValue
from natsdisc.store.checked import CheckedSink
from natsdisc.store.slices import Slices

TAKES_S = 0.0005


class SlowTrust(Trust):
    """Believes everything, after a while."""

    def __init__(self) -> None:
        self.verified = 0

    def verify(self, bucket: str, key: str, value: bytes, header: str | None) -> Signature:
        self.verified += 1
        ends = time.perf_counter() + TAKES_S
        while time.perf_counter() < ends:
            pass
        return Signature("owner", 1, 0, "U", b"")


class Heard:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def recover(self) -> None:
        self.words.append("recover")

    def begin(self) -> None:
        self.words.append("begin")

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self.words += [key for key, _ in entries]

    def delete(self, key: str, reason: RemovalReason) -> None:
        self.words.append(f"-{key}")

    def keep(self, key: str) -> None:
        self.words.append(f"?{key}")

    def end(self) -> None:
        self.words.append("end")

    def stale(self, doubt: ResyncReason, error: Exception) -> None:
        self.words.append("stale")

    def fail(self, error: Exception) -> None:
        self.words.append("fail")


def refused(bucket: str, key: str, error: UntrustedError) -> None:
    raise AssertionError(key)


def checked(trust: SlowTrust, heard: Heard) -> CheckedSink:
    return CheckedSink(heard, "bucket", trust, refused, lambda: 1.0, Slices())


def values(*keys: str) -> list[tuple[str, bytes]]:
    return [(key, SignedValue(b"{}", "signature")) for key in keys]


async def test_what_is_quickly_verified_is_reported_at_once() -> None:
    heard = Heard()
    sink = checked(SlowTrust(), heard)
    sink.begin()
    sink.put(values("a"))
    sink.delete("a", RemovalReason.EXPIRED)
    sink.end()
    assert heard.words == ["begin", "a", "-a", "end"]
    assert sink.lag == 0


async def test_a_large_snapshot_leaves_the_loop_to_others_and_keeps_its_order() -> None:
    heard, trust = Heard(), SlowTrust()
    sink = checked(trust, heard)
    keys = [f"k{number}" for number in range(200)]
    sink.begin()
    for at in range(0, 200, 50):
        sink.put(values(*keys[at : at + 50]))
    sink.delete("k0", RemovalReason.EXPIRED)
    sink.keep("k1")
    sink.end()
    sink.put(values("later"))
    sink.stale(ResyncReason.GAP, StoreUnavailableError("gone"))
    assert trust.verified < 100, "the rest waits"
    assert sink.lag > 0
    turns = 0
    while "stale" not in heard.words:
        turns += 1
        await asyncio.sleep(0)
    assert heard.words == ["begin", *keys, "-k0", "?k1", "end", "later", "stale"]
    assert turns > 5, "others had their turn meanwhile"
    assert sink.lag == 0


async def test_a_closed_sink_says_nothing_more() -> None:
    heard = Heard()
    sink = checked(SlowTrust(), heard)
    sink.put(values(*(f"k{number}" for number in range(200))))
    said = len(heard.words)
    sink.close()
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(heard.words) == said < 200


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natsdisc.store.checked._MOST_UNVERIFIED", 50)
    heard = Heard()
    sink = checked(SlowTrust(), heard)
    for at in range(0, 200, 20):
        sink.put(values(*(f"k{number}" for number in range(at, at + 20))))
        assert at + 20 - len(heard.words) <= 50
    sink.close()


async def test_two_sinks_share_the_slices_of_one_loop() -> None:
    slices, trust = Slices(), SlowTrust()
    both = [Heard(), Heard()]
    sinks = [CheckedSink(heard, "bucket", trust, refused, lambda: 1.0, slices) for heard in both]
    for sink in sinks:
        sink.put(values(*(f"k{number}" for number in range(100))))
    while any(len(heard.words) < 100 for heard in both):
        before = trust.verified
        await asyncio.sleep(0)
        assert trust.verified - before <= 100, "a turn does one slice, not one for each sink"
