"""Delays between tries."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc.store.jetstream.requests import delays


def test_they_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert list(islice(delays(first=0.1, longest=1.0), 6)) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_each_is_drawn_from_its_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert list(islice(delays(first=0.1, longest=1.0), 6)) == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


@given(first=st.floats(0.01, 10.0), factor=st.floats(1.0, 100.0), tries=st.integers(1, 50))
def test_they_stay_between_half_the_first_and_the_longest(first: float, factor: float, tries: int) -> None:
    longest = first * factor
    drawn = list(islice(delays(first=first, longest=longest), tries))
    assert all(first / 2 <= delay <= longest for delay in drawn)


def test_crowds_spread() -> None:
    assert len({next(delays(first=1.0, longest=1.0)) for _ in range(50)}) > 1


def test_two_tries_do_not_share_their_delays() -> None:
    one, other = delays(first=0.1, longest=100.0), delays(first=0.1, longest=100.0)
    for _ in range(10):
        next(one)
    assert next(other) <= 0.1 < next(one)
