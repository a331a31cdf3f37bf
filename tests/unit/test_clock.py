"""A clock that a test moves, and the loop's own."""

from __future__ import annotations

import asyncio

import pytest

from natsdisc.clock import Clock, LoopClock, ManualClock


class TestManualClock:
    async def test_it_stands_still_until_it_is_moved(self) -> None:
        clock = ManualClock()
        await asyncio.sleep(0)
        assert clock.time() == 0.0
        await clock.advance(1.5)
        await clock.advance(0.25)
        assert clock.time() == 1.75

    async def test_calls_come_in_their_order_at_their_time(self) -> None:
        clock, calls = ManualClock(), list[tuple[str, float]]()
        for name, when in [("c", 3.0), ("a", 1.0), ("b", 2.0)]:
            clock.call_at(when, lambda name=name: calls.append((name, clock.time())))  # type: ignore[misc]
        await clock.advance(2.5)
        assert calls == [("a", 1.0), ("b", 2.0)]
        await clock.advance(0.5)
        assert calls == [("a", 1.0), ("b", 2.0), ("c", 3.0)]

    async def test_calls_of_one_moment_come_in_the_order_they_were_asked_for(self) -> None:
        clock, calls = ManualClock(), list[int]()
        for number in range(5):
            clock.call_at(1.0, lambda number=number: calls.append(number))  # type: ignore[misc]
        await clock.advance(1.0)
        assert calls == [0, 1, 2, 3, 4]

    async def test_a_call_that_was_taken_back_does_not_come(self) -> None:
        clock, calls = ManualClock(), list[str]()
        clock.call_at(1.0, lambda: calls.append("a")).cancel()
        later = clock.call_at(2.0, lambda: calls.append("b"))
        clock.call_at(1.5, later.cancel)
        await clock.advance(3.0)
        assert calls == []

    async def test_taking_back_what_was_called_does_nothing(self) -> None:
        clock, calls = ManualClock(), list[str]()
        timer = clock.call_at(1.0, lambda: calls.append("a"))
        await clock.advance(1.0)
        timer.cancel()
        await clock.advance(1.0)
        assert calls == ["a"]

    async def test_a_call_may_ask_for_another_on_the_way(self) -> None:
        clock, calls = ManualClock(), list[float]()

        def again() -> None:
            calls.append(clock.time())
            clock.call_at(clock.time() + 1.0, again)

        clock.call_at(1.0, again)
        await clock.advance(3.5)
        assert calls == [1.0, 2.0, 3.0]
        assert clock.time() == 3.5

    async def test_a_call_in_the_past_comes_with_the_next_move_and_time_never_runs_back(self) -> None:
        clock, calls = ManualClock(), list[float]()
        await clock.advance(5.0)
        clock.call_at(1.0, lambda: calls.append(clock.time()))
        assert calls == []
        await clock.advance(0.0)
        assert calls == [5.0]

    async def test_what_a_call_woke_has_run_before_the_next_call(self) -> None:
        clock, calls = ManualClock(), list[str]()
        woken = asyncio.Event()

        async def sleeper() -> None:
            await woken.wait()
            await asyncio.sleep(0)
            calls.append(f"woken at {clock.time()}")

        task = asyncio.create_task(sleeper())
        clock.call_at(1.0, woken.set)
        clock.call_at(2.0, lambda: calls.append("next"))
        await clock.advance(2.0)
        assert calls == ["woken at 1.0", "next"]
        await task

    async def test_what_was_ready_has_run_before_the_first_call(self) -> None:
        clock, calls = ManualClock(), list[str]()

        async def asks() -> None:
            clock.call_at(1.0, lambda: calls.append("asked"))

        task = asyncio.create_task(asks())
        await clock.advance(1.0)
        assert calls == ["asked"]
        await task


async def test_both_are_clocks() -> None:
    clocks: list[Clock] = [ManualClock(), LoopClock()]
    assert len(clocks) == 2


async def test_the_loop_clock_is_the_loops_time() -> None:
    loop, clock = asyncio.get_running_loop(), LoopClock()
    before = loop.time()
    assert before <= clock.time() <= loop.time()
    called = loop.create_future()
    clock.call_at(clock.time(), lambda: called.set_result(clock.time()))
    assert await called >= before


async def test_the_loop_clocks_calls_can_be_taken_back() -> None:
    clock, calls = LoopClock(), list[str]()
    clock.call_at(clock.time(), lambda: calls.append("a")).cancel()
    done = asyncio.Event()
    clock.call_at(clock.time(), done.set)
    await done.wait()
    assert calls == []


def test_the_loop_clock_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        LoopClock().time()
