"""The server's clock, read from its answers; the client's wall clock is never asked.

An answer's `ts` was taken somewhere between sending the request and hearing the answer, so the estimate is
off by at most half that round trip, plus what the two clocks drift apart until the next answer.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ...errors import StoreUnavailableError

__all__ = ["ServerTime"]

# Two quartz clocks drift apart by no more than this (seconds a second).
_DRIFT = 1e-4
_OLD = 30.0


class ServerTime:
    """An estimate of the server's time, from its last answer; off by at most `error` seconds and drift."""

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._measured = 0.0
        self.error = float("inf")

    @property
    def age(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._measured if self._at is not None else float("inf")

    def observe(self, ts: str, sent: float, received: float) -> None:
        """Take the `ts` of an answer to a request `sent` and `received` at these `time.monotonic()`s."""
        error = (received - sent) / 2
        # A slow answer says less than a quick one did, until that one is old.
        if error <= self.error + _DRIFT * self.age or self.age > _OLD:
            self._at = datetime.fromisoformat(ts)
            self._measured = (sent + received) / 2
            self.error = error

    def forget(self) -> None:
        """The next answer may come from another server."""
        self._at, self.error = None, float("inf")

    def now(self) -> datetime:
        """Return the server's time, off by `error` seconds at most.

        Raises StoreUnavailableError when the connection broke since the server was last asked.
        """
        if self._at is None:
            raise StoreUnavailableError("the connection broke: the server has to be asked for its time again")
        return self._at + timedelta(seconds=time.monotonic() - self._measured)

    def after(self, seconds: float) -> str:
        """The server's time in `seconds` from now, not earlier, as RFC 3339.

        Raises StoreUnavailableError when the connection broke since the server was last asked.
        """
        if self._at is None:
            raise StoreUnavailableError("the connection broke: the server has to be asked for its time again")
        passed = time.monotonic() - self._measured
        # Rather late than early by the error: a lease must not end before its ttl.
        at = self._at + timedelta(seconds=passed + seconds + self.error)
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
