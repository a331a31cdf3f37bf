"""The verdict on a health check, and the options of one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc.errors import InvalidValueError
from natsdisc.health import HealthCheck, Verdict, checked_health

counts = st.integers(1, 5)
answers = st.lists(st.booleans(), max_size=40)


@given(answers=answers)
def test_with_thresholds_of_one_it_follows_every_answer(answers: list[bool]) -> None:
    verdict = Verdict(1, 1)
    for answer in answers:
        assert verdict.note(answer) is answer


@given(failures=counts, successes=counts, answers=answers)
def test_it_changes_exactly_after_so_many_in_a_row(
    failures: int, successes: int, answers: list[bool]
) -> None:
    verdict, healthy, in_a_row = Verdict(failures, successes), True, 0
    for answer in answers:
        in_a_row = in_a_row + 1 if answer is not healthy else 0
        if in_a_row == (failures if healthy else successes):
            healthy, in_a_row = answer, 0
        assert verdict.note(answer) is healthy


async def well() -> bool:
    return True


def test_it_is_healthy_at_first_and_a_check_has_defaults() -> None:
    assert Verdict(3, 2).healthy
    assert checked_health(well, 5.0, 1, 1) == HealthCheck(well, 5.0, 1, 1)
    assert checked_health(None, 5.0, 1, 1) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((well, 0, 1, 1), "health_interval"),
        ((well, float("inf"), 1, 1), "health_interval"),
        ((well, float("nan"), 1, 1), "health_interval"),
        ((well, True, 1, 1), "health_interval"),
        ((well, "1", 1, 1), "health_interval"),
        ((well, 1.0, 0, 1), "health_failures"),
        ((well, 1.0, 1.5, 1), "health_failures"),
        ((well, 1.0, 1, True), "health_successes"),
        (("http://localhost", 1.0, 1, 1), "async function"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        checked_health(*options)


def test_nothing_is_said_of_a_status_that_was_there_before_the_answers_are_enough() -> None:
    verdict = Verdict(failures=3, successes=2)
    assert [(verdict.note(False), verdict.is_settled) for _ in range(3)] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    other = Verdict(failures=1, successes=2)
    assert [(other.note(True), other.is_settled) for _ in range(2)] == [(True, False), (True, True)]
