"""How many lines there are, and how much is remembered."""

from __future__ import annotations

import pytest

from natsdisc.notices import Notices


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_a_key() -> None:
    notices = Notices("things", Time())
    assert [notices.allow(key) for key in "aabab"] == [True, False, True, False, False]


def test_with_repeats_a_key_may_have_any_number() -> None:
    notices = Notices("things", Time(), repeats=True)
    assert [notices.allow("a") for _ in range(101)] == [True] * 100 + [False]


def test_a_hundred_lines_a_minute_and_the_sum(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    notices = Notices("things", time)
    for minute in range(3):
        time.now = 61.0 * minute
        assert sum(notices.allow((minute, number)) for number in range(1_000)) == 100
    sums = [record.getMessage() for record in caplog.records]
    assert len(sums) == 2  # of the first two minutes
    assert sums[0] == "900 more things were not logged one by one; the last of them was (0, 999)"
    notices.sum_up()
    notices.sum_up()
    assert len(caplog.records) == 3


def test_memory_is_bounded() -> None:
    time = Time()
    notices = Notices("things", time)
    for number in range(20_000):
        time.now += 1.0
        notices.allow(number)
    assert len(notices._keys) == 1_000
