"""The clock of a stream's leader, read from its answers; the client's wall clock is never used.

An answer's `ts` was taken somewhere between sending the request and hearing the answer, so the estimate is
off by at most half that round trip, plus what the two clocks drift apart until the next answer. An answer
that contradicts the estimate replaces it, however slow it was: a clock was set, or the machine slept.

There is one estimate for each stream, because the leaders of two streams may run on two machines. Renewals
set the end of a lease by it, and sweeps judge by it whether a lease has ended.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ... import clock
from ...errors import StoreUnavailableError

__all__ = ["ServerTime"]

# Two quartz clocks drift apart by no more than this (seconds a second).
_DRIFT = 1e-4
_OLD = 30.0
# Seconds between two doubts: of a thousand failed fences the first is a reason to ask.
_DOUBT_EVERY_S = 2.0
# Seconds by which two right answers may differ: a busy server stamps an answer some time before it sends it.
_ROUNDING = 0.05


class ServerTime:
    """An estimate of the time of a stream's leader; off by at most `error` seconds and drift."""

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._measured = 0.0
        self._jumps = clock.Jumps()
        self._is_doubted = False
        self._doubted_at = float("-inf")
        self.error = float("inf")

    @property
    def age(self) -> float:
        """Seconds since the last answer; infinite when the server has to be asked again.

        An answer from the future means that the machine's clock went back, so that estimate is worthless.
        """
        if self._at is None or self._is_doubted:
            return float("inf")
        age = clock.elapsed() - self._measured
        return age if age >= 0 else float("inf")

    def observe(self, ts: str, sent: float, received: float) -> None:
        """Take the `ts` of an answer to a request `sent` and `received` at these `time.monotonic()`s."""
        at = datetime.fromisoformat(ts)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        error = (received - sent) / 2
        measured = (sent + received) / 2 + clock.elapsed() - time.monotonic()
        # A slow answer says less than a quick one did, until that one is old, or proves to be wrong.
        if (
            self._at is None
            or error <= self.error + _DRIFT * self.age
            or self.age > _OLD
            or self._contradicts(at, measured, error)
        ):
            self._at, self._measured, self.error, self._is_doubted = at, measured, error, False

    def check(self) -> None:
        """Forget the estimate if this machine slept or its clock was set since the last check."""
        if self._jumps.seen():
            self.forget()

    def doubt(self) -> None:
        """Have the server asked again before the next write, unless a doubt had it asked a moment ago.

        An answer that somebody else asked for is no reason not to: a clock can be set right after it. Writes
        that are on their way continue with the old estimate; their fence tells if it was wrong.
        """
        now = time.monotonic()
        if now - self._doubted_at > _DOUBT_EVERY_S:
            self._doubted_at = now
            self._is_doubted = True

    def forget(self) -> None:
        """Drop the estimate: the next answer may come from another server, or from a clock that was set."""
        self._at, self.error = None, float("inf")

    def read(self) -> datetime:
        """Return the time of the stream's leader.

        Raises StoreUnavailableError when the estimate was forgotten since the server was last asked.
        """
        if self._at is None:
            raise StoreUnavailableError(
                "cannot set or judge the end of a lease: the server's time is not known since the connection "
                "broke or a clock was set; the server is asked again before the next try"
            )
        return self._at + timedelta(seconds=clock.elapsed() - self._measured)

    def after(self, seconds: float) -> str:
        """Return the server's time in `seconds` from now, not earlier, as RFC 3339.

        Raises StoreUnavailableError as `read` does.
        """
        # Rather late than early by the error: a lease must not end before its ttl.
        at = self.read() + timedelta(seconds=seconds + self.error)
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def until(self, at: str) -> float:
        """Return the seconds from the server's time now until `at` (RFC 3339); negative for the past.

        Raises ValueError for what is no time, and StoreUnavailableError as `read` does.
        """
        moment = datetime.fromisoformat(at)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return (moment - self.read()).total_seconds()

    def _contradicts(self, at: datetime, measured: float, error: float) -> bool:
        """Whether the server's time at `measured` cannot have been within `error` of `at`."""
        assert self._at is not None
        passed = measured - self._measured
        expected = self._at + timedelta(seconds=passed)
        return abs((at - expected).total_seconds()) > error + self.error + _DRIFT * abs(passed) + _ROUNDING
