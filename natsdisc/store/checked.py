"""The reports of a reader, without the values that no trusted key has signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..clock import Clock, Timer
from ..model import RemovalReason
from ..replay import History
from ..signing import Trust, UntrustedError
from . import UNTRUSTED, Reader, SignedValue, Sink

__all__ = ["CheckedReader", "CheckedSink", "Refused"]

# Seconds between two looks for signatures that have ended.
_LOOK_EVERY = 30.0

# Told of each value that is not believed: bucket, key and the reason.
Refused: TypeAlias = Callable[[str, str, UntrustedError], None]


class CheckedSink:
    """Passes on what a reader reports, and remembers what it believed."""

    def __init__(
        self, sink: Sink, bucket: str, trust: Trust, refused: Refused, wall: Callable[[], float]
    ) -> None:
        self._bucket = bucket
        self._trust = trust
        self._refused = refused
        self._wall = wall
        self._history = History()
        self._sink = sink
        self.recover, self.begin, self.keep = sink.recover, sink.begin, sink.keep
        self.end, self.stale, self.fail = sink.end, sink.stale, sink.fail

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._sink.put([(key, self._checked(key, value)) for key, value in entries])

    def _checked(self, key: str, value: bytes) -> bytes:
        """Return the plain value if it is believed, UNTRUSTED if not."""
        signature = value.signature if isinstance(value, SignedValue) else None
        try:
            self._history.put(key, self._trust.verify(self._bucket, key, value, signature), self._wall())
        except UntrustedError as error:
            self._refused(self._bucket, key, error)
            return UNTRUSTED
        return bytes(value)

    def delete(self, key: str, reason: RemovalReason) -> None:
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
        return self._reader.age

    async def aclose(self) -> None:
        self._timer.cancel()
        await self._reader.aclose()

    def _next(self) -> Timer:
        return self._clock.call_at(self._clock.time() + _LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = self._next()
        self._sink.look()
