"""The server's clock, read from its answers; the client's wall clock is never asked.

An answer's `ts` was taken somewhere between sending the request and hearing the answer, so the estimate is
off by at most half that round trip, plus what the two clocks drift apart until the next answer.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["ServerTime"]


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
        self._at = datetime.fromisoformat(ts)
        self._measured = (sent + received) / 2
        self.error = (received - sent) / 2

    def after(self, seconds: float) -> str:
        """The server's time in `seconds` from now, as RFC 3339."""
        assert self._at is not None, "observe first"
        passed = time.monotonic() - self._measured
        return (
            (self._at + timedelta(seconds=passed + seconds)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        )
