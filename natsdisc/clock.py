"""Time as something that is passed in: the event loop's, or a test's; and the machine's own clocks."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "Jumps", "LoopClock", "ManualClock", "Timer", "elapsed"]

# How many loop turns ManualClock gives the tasks that a timer woke, before it moves on. A chain of
# timer -> task -> future -> callback needs four or five; more turns cost microseconds.
_SETTLE_TURNS = 20
# Seconds by which two clocks of a machine move apart only if it slept, or if its time was set.
_APART = 0.5
# The clocks that count while the machine sleeps. `time.monotonic` is one of them on Windows only.
_SLEEPLESS: int | None = getattr(
    time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if sys.platform == "darwin" else None
)


def elapsed() -> float:
    """Return monotonic seconds that go on while the machine sleeps, where it has a clock for them."""
    return time.monotonic() if _SLEEPLESS is None else time.clock_gettime(_SLEEPLESS)


class Jumps:
    """Tells when the clocks of this machine moved apart: it slept, it was stopped, or its time was set.

    The wall clock is only ever compared with itself; nothing is computed from the time that it shows.
    """

    def __init__(self) -> None:
        self._offsets = self._read()

    def seen(self) -> bool:
        """Return whether that happened since the last call."""
        before, self._offsets = self._offsets, self._read()
        return any(abs(now - then) > _APART for now, then in zip(self._offsets, before, strict=True))

    @staticmethod
    def _read() -> tuple[float, float]:
        monotonic = time.monotonic()
        return elapsed() - monotonic, time.time() - monotonic


class Timer(Protocol):
    """A call that is due later and can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic seconds, and calls at a moment of it."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer: ...


class LoopClock:
    """The running event loop's own monotonic time; outside of one, that of the last."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def time(self) -> float:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            if self._loop is None:
                raise
        return self._loop.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_at(when, callback)


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, _ManualTimer]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._due, (when, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`, running what falls due on the way in its order."""
        await self._settle()
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            when, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, when)
            if not timer.cancelled:
                timer.callback()
                await self._settle()
        self._now = end
        await self._settle()

    @staticmethod
    async def _settle() -> None:
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)


class _ManualTimer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
