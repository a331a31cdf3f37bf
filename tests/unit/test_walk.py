"""Reading a stretch of a stream in parts: the same messages as one after the other, in fewer round trips."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsdisc.store.jetstream.stream_messages import StoredMessage
from natsdisc.store.jetstream.walk import Walked, walk

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Stretch:
    """A stream whose messages were stored at one second a sequence; it counts the round trips."""

    def __init__(self, sequences: set[int]) -> None:
        self._sequences = sorted(sequences)
        self.questions = self.round_trips = 0
        self._asked_in: set[int] = set()
        self._turn = 0

    async def next_message(self, sequence: int) -> StoredMessage | None:
        self.questions += 1
        if self._turn not in self._asked_in:
            self._asked_in.add(self._turn)
            self.round_trips += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._turn = self.questions
        at = bisect.bisect_left(self._sequences, sequence)
        if at == len(self._sequences):
            return None
        found = self._sequences[at]
        return StoredMessage(f"s.{found}", found, EPOCH + timedelta(seconds=found), {}, b"")

    def walk(self, first: int, last: int, *, most: int = 10_000, newest: int = 10**9) -> Walked:
        def is_too_new(message: StoredMessage) -> bool:
            return message.sequence > newest

        return asyncio.run(walk(self.next_message, first, last, most=most, is_too_new=is_too_new))


@settings(max_examples=50)
@given(
    sequences=st.sets(st.integers(1, 2_000)),
    first=st.integers(1, 2_000),
    last=st.integers(0, 2_000),
    newest=st.integers(0, 2_000),
)
def test_it_finds_what_there_is_up_to_the_first_too_new_one(
    sequences: set[int], first: int, last: int, newest: int
) -> None:
    found = Stretch(sequences).walk(first, last, newest=newest)
    expected = [sequence for sequence in sorted(sequences) if first <= sequence <= min(last, newest)]
    assert [message.sequence for message in found.messages] == expected
    assert found.resume is None


@settings(max_examples=50)
@given(sequences=st.sets(st.integers(1, 500), min_size=1), most=st.integers(1, 60))
def test_a_walk_that_may_not_ask_more_is_continued_where_it_ended(sequences: set[int], most: int) -> None:
    stretch, seen, first = Stretch(sequences), set[int](), 1
    for _ in range(len(sequences) + 500):
        found = stretch.walk(first, 500, most=most)
        seen |= {message.sequence for message in found.messages}
        if found.resume is None:
            break
        assert found.resume > first
        first = found.resume
    assert seen == sequences


def test_a_stretch_of_young_messages_costs_one_question() -> None:
    stretch = Stretch(set(range(1, 2_000)))
    assert stretch.walk(1, 2_000, newest=0) == Walked([], None)
    assert stretch.questions == 1


@pytest.mark.parametrize(
    "place", [lambda at: at * 900 + 1, lambda at: 90_000 + at], ids=["everywhere", "together"]
)
def test_a_hundred_messages_take_a_few_round_trips(place: Callable[[int], int]) -> None:
    stretch = Stretch({place(at) for at in range(100)})
    assert len(stretch.walk(1, 100_000).messages) == 100
    assert stretch.round_trips <= 16
    assert stretch.questions <= 400


def test_a_failed_question_ends_the_walk() -> None:
    async def fails(sequence: int) -> StoredMessage | None:
        if sequence > 500:
            raise OSError(sequence)
        return StoredMessage("s", sequence, EPOCH, {}, b"")

    with pytest.raises(OSError):
        asyncio.run(walk(fails, 1, 1_000, most=1_000, is_too_new=lambda _: False))
