"""The reports of a reader, without the values that no trusted key has signed.

A signature takes tens of microseconds to verify, so a large snapshot is verified in slices. Messages behind
values that wait for that waits too: a sink hears everything in its order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from ..clock import Clock, Timer
from ..errors import DiscoveryError
from ..model import RemovalReason
from ..replay import History
from ..signing import Trust, UntrustedError
from . import UNTRUSTED, Reader, ResyncReason, SignedValue, Sink
from .slices import Slices

__all__ = ["CheckedReader", "CheckedSink", "Refused"]

# Seconds between two looks for signatures that have ended.
_LOOK_EVERY = 30.0
# Signatures that are verified between two looks at the clock: less than a millisecond of work.
_BETWEEN_LOOKS = 8
# Values of one sink that may wait; of more, the oldest are verified at once, which slows the sender down.
_MOST_UNVERIFIED = 20_000

# Told of each value that is not believed: bucket, key and the reason.
Refused: TypeAlias = Callable[[str, str, UntrustedError], None]


class CheckedSink:
    """Passes on what a reader reports, and remembers what it believed. `slices` is when it verifies."""

    def __init__(
        self,
        sink: Sink,
        bucket: str,
        trust: Trust,
        refused: Refused,
        wall: Callable[[], float],
        slices: Slices,
    ) -> None:
        self._bucket = bucket
        self._trust = trust
        self._refused = refused
        self._wall = wall
        self._slices = slices
        self._history = History()
        self._sink = sink
        # Values that are not verified yet, and calls that wait for their turn behind them.
        self._waiting: deque[deque[tuple[str, bytes]] | Callable[[], None]] = deque()
        self._unverified = 0
        self._waits_since = 0.0

    @property
    def lag(self) -> float:
        """Seconds for which something has waited to be verified; 0 when nothing waits."""
        return time.monotonic() - self._waits_since if self._waiting else 0.0

    def close(self) -> None:
        """Report nothing any more."""
        self._waiting.clear()
        self._unverified = 0

    def recover(self) -> None:
        self._in_order(self._sink.recover)

    def begin(self) -> None:
        self._in_order(self._sink.begin)

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        entries = deque(entries)
        if not self._waiting:
            self._verify(entries)
        if entries:
            self._unverified += len(entries)
            self._wait(entries)
        while self._unverified > _MOST_UNVERIFIED:
            self._work_on_the_first(at_once=True)

    def delete(self, key: str, reason: RemovalReason) -> None:
        self._in_order(partial(self._delete, key, reason))

    def keep(self, key: str) -> None:
        self._in_order(partial(self._sink.keep, key))

    def end(self) -> None:
        self._in_order(self._sink.end)

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._in_order(partial(self._sink.stale, reason, error))

    def fail(self, error: DiscoveryError) -> None:
        self._in_order(partial(self._sink.fail, error))

    def work(self) -> bool:
        """Go on with what waits while the slice lasts; return whether something is left."""
        while self._waiting and not self._slices.is_over:
            self._work_on_the_first()
        return bool(self._waiting)

    def _in_order(self, call: Callable[[], None]) -> None:
        if self._waiting:
            self._wait(call)
        else:
            call()

    def _wait(self, what: deque[tuple[str, bytes]] | Callable[[], None]) -> None:
        if not self._waiting:
            self._waits_since = time.monotonic()
            self._slices.wait(self)
        self._waiting.append(what)

    def _work_on_the_first(self, *, at_once: bool = False) -> None:
        first = self._waiting[0]
        if isinstance(first, deque):
            before = len(first)
            self._verify(first, at_once=at_once)
            if not self._waiting:
                return  # what was reported closed this sink
            self._unverified -= before - len(first)
            if first:
                return
            self._waiting.popleft()
        else:
            self._waiting.popleft()
            first()

    def _verify(self, entries: deque[tuple[str, bytes]], *, at_once: bool = False) -> None:
        """Verify `entries` from their beginning while the slice lasts, take them out, and report them."""
        believed = []
        while entries and (at_once or not self._slices.is_over):
            for _ in range(min(_BETWEEN_LOOKS, len(entries))):
                key, value = entries.popleft()
                believed.append((key, self._checked(key, value)))
        if believed:
            self._sink.put(believed)

    def _checked(self, key: str, value: bytes) -> bytes:
        """Return the plain value if it is believed, UNTRUSTED if not."""
        signature = value.signature if isinstance(value, SignedValue) else None
        try:
            self._history.put(key, self._trust.verify(self._bucket, key, value, signature), self._wall())
        except UntrustedError as error:
            self._refused(self._bucket, key, error)
            return UNTRUSTED
        return bytes(value)

    def _delete(self, key: str, reason: RemovalReason) -> None:
        self._history.delete(key)
        self._sink.delete(key, reason)

    def look(self) -> None:
        """Take back the belief in values whose signature has ended."""
        ended = self._history.ended(self._wall())
        if ended:
            self._sink.put([(key, UNTRUSTED) for key in ended])
            for key in ended:
                self._refused(
                    self._bucket, key, UntrustedError("its signature ended: its owner did not sign again")
                )


class CheckedReader:
    """A reader whose sink is looked at now and then."""

    def __init__(self, reader: Reader, sink: CheckedSink, clock: Clock) -> None:
        self._reader = reader
        self._sink = sink
        self._clock = clock
        self._timer: Timer = self._next()

    @property
    def age(self) -> float:
        return max(self._reader.age, self._sink.lag)

    async def aclose(self) -> None:
        self._timer.cancel()
        self._sink.close()
        await self._reader.aclose()

    def _next(self) -> Timer:
        return self._clock.call_at(self._clock.time() + _LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = self._next()
        self._sink.look()
