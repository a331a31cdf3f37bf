"""Work that is done in slices, so that it never holds the event loop for long.

Rules
1. A message that arrives while nothing waits is done at once, while this turn of the loop has time left.
2. Everything else waits, and is done in its order, a slice a turn.
3. The queue is bounded. Beyond the bound a message is done at once, so that its sender is slowed down.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

__all__ = ["Slices", "Worker"]

# Seconds of work in one turn of the event loop. Arriving and waiting messages may take that long each.
_SLICE_S = 0.004


class Worker(Protocol):
    """The owner of work that waits."""

    def work(self) -> bool:
        """Do some of it while the slice lasts; return whether something is left."""


class Slices:
    """The time of one event loop that several workers share."""

    def __init__(self) -> None:
        self._waiting: deque[Worker] = deque()
        self._ends: float | None = None  # of the slice of this turn
        self._turn: asyncio.Handle | None = None

    @property
    def is_over(self) -> bool:
        """Whether this turn of the loop has no time left. The first question in a turn begins its slice."""
        now = time.monotonic()
        if self._turn is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return False  # there is no loop to hold
            self._ends = now + _SLICE_S
            self._turn = loop.call_soon(self._next_turn)
        return self._ends is not None and now >= self._ends

    def wait(self, worker: Worker) -> None:
        """Have `worker` called in the next turns, until nothing of its work is left."""
        if worker not in self._waiting:
            self._waiting.append(worker)

    def _next_turn(self) -> None:
        self._turn = self._ends = None
        for _ in range(len(self._waiting)):
            if self.is_over:
                break
            worker = self._waiting.popleft()
            if worker.work():
                self._waiting.append(worker)
        if self._waiting and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
