"""The largest message: what a server tells, and what it refuses without telling."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from nats.aio.client import Client

from natsdisc.store.jetstream import limits
from natsdisc.store.jetstream.limits import Limits, size_of


@dataclass
class Told(Client):  # type: ignore[misc]
    """A connection whose server told a limit."""

    max_payload: int = 1_000_000


def test_a_size_that_was_refused_is_not_sent_again() -> None:
    there = Limits(Told())
    there.violated([100, 40_000, 2_000])
    assert there.max_payload == 39_999


def test_what_the_server_tells_later_counts() -> None:
    told = Told()
    there = Limits(told)
    there.violated([40_000])
    told.max_payload = 32_768
    assert there.max_payload == 32_768
    told.max_payload = 1_000_000
    assert there.max_payload == 1_000_000


def test_a_small_message_is_not_blamed() -> None:
    there = Limits(Told())
    there.violated([])
    there.violated([100])
    assert there.max_payload == 1_000_000


def test_a_refusal_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Limits(Told())
    there.violated([40_000])
    monkeypatch.setattr(limits, "_REMEMBERED_S", -1.0)
    assert there.max_payload == 1_000_000


def test_headers_count() -> None:
    assert size_of(b"12345", None) == 5
    assert size_of(b"12345", {"A": "b"}) == len(b"NATS/1.0\r\nA: b\r\n\r\n12345")
