"""One large snapshot at a time on a connection.

Each consumer of a snapshot may have 32 MB on the way before it waits for us, and the server cuts a connection
with 64 MB on the way: two large snapshots over a slow link would never complete. A consumer asks for more by
flow control, after its first megabyte. So the gate answers these requests for one consumer at a time, and
keeps back the answers to the others. Small snapshots never ask, and pass.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

__all__ = ["SnapshotGate"]


class Passenger(Protocol):
    """A snapshot on its way."""

    heard: float
    """When its last message came, by the loop's clock (seconds)."""


class SnapshotGate:
    """The order in which the large snapshots of one connection are read."""

    def __init__(self) -> None:
        self._holder: Passenger | None = None
        self._waiting: OrderedDict[Passenger, Callable[[], None]] = OrderedDict()
        self._left_at = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether a large snapshot is being read: answers may be behind megabytes of it."""
        return self._holder is not None

    @property
    def heard(self) -> float:
        """When the snapshot that is read last had a message, or when the last one ended (loop's clock)."""
        return max(self._left_at, self._holder.heard) if self._holder is not None else self._left_at

    def request(self, who: Passenger, answer: Callable[[], None]) -> None:
        """Call `answer`, which lets `who` have more, now or when all who asked before have left."""
        if self._holder in (None, who):
            self._holder = who
            answer()
        else:
            self._waiting[who] = answer  # the last one counts

    def leave(self, who: Passenger) -> None:
        """Let the next snapshot go on: `who` is complete, or given up. More calls change nothing."""
        self._waiting.pop(who, None)
        if self._holder is not who:
            return
        self._holder, self._left_at = None, asyncio.get_running_loop().time()
        if self._waiting:
            self._holder, answer = self._waiting.popitem(last=False)
            answer()
