"""The times without a connection: their reasons, said once, and how long a client pauses between tries."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from nats.errors import SecureConnWantedError

from ... import log

__all__ = ["LONGEST_PAUSE_S", "Outages", "guarded", "is_refusal"]

_log = log.logger(__name__)

# After a refusal, or a connection that did not last, pauses grow from `reconnect_time_wait` to this many
# seconds. A server that is away is tried at the same pace all the time: the leases that fell due meanwhile
# end about a second after its start, so their holders have to be there before.
LONGEST_PAUSE_S = 1.0
_PAUSE_GROWTH = 1.3
_MOST_STEPS = 10
# A connection that lasted less than this many seconds counts as a failed try.
_SHORT_LIVED_S = 2.0
# An error line that came this many seconds before the end of a connection is the reason for it.
_LAST_WORD_S = 1.0
_REFUSALS = (
    "authorization violation",
    "authorization failed",
    "user authentication",
    "account authentication",
    "authentication timeout",
    "permissions violation",
)


def is_refusal(error: BaseException | None) -> bool:
    """Return whether a server refuses credentials or a permission with this error."""
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


class Outages:
    """Counts and tells when a connection is lost and back; each is one line in the log."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lost_at: float | None = None
        self._connected_at = 0.0
        self._short_lives = 0
        self._refusals = 0  # in this outage
        self._last_word: tuple[float, Exception] | None = None

    def note_word(self, error: Exception) -> None:
        """Take an error line of the server: it says why the connection ends, if that ends now."""
        self._last_word = (time.monotonic(), error)
        self.counts["errors"] += 1

    def begin(self, error: Exception | None) -> None:
        """Note that the connection is lost."""
        if self._lost_at is not None:
            return
        now = time.monotonic()
        self._lost_at, self._refusals = now, 0
        self._short_lives = self._short_lives + 1 if now - self._connected_at < _SHORT_LIVED_S else 0
        self.counts["breaks"] += 1
        reason: object = error or "asked to"
        # A server says why it closes a connection, and then the connection ends without a reason.
        if self._last_word is not None and now - self._last_word[0] < _LAST_WORD_S:
            reason = self._last_word[1]
        _log.warning(
            "lost the connection to NATS: %s; reconnecting until it is back",
            reason,
            extra=log.fields("disconnected", error=reason),
        )

    def end(self) -> None:
        """Note that there is a connection."""
        self._connected_at = time.monotonic()
        if self._lost_at is None:
            return
        seconds = self._connected_at - self._lost_at
        self._lost_at = None
        self.counts["reconnects"] += 1
        _log.info(
            "connected to NATS again after %.1f s",
            seconds,
            extra=log.fields("reconnected", seconds=seconds),
        )

    def note_failure(self, error: Exception) -> None:
        """Count a failed try; a refusal of the credentials is logged once in an outage."""
        if self._lost_at is None:
            return
        self.counts["failed_attempts"] += 1
        if is_refusal(error) or isinstance(error, SecureConnWantedError):
            self.counts["refused_attempts"] += 1
            self._refusals += 1
            if self._refusals == 1:
                _log.warning(
                    "the server does not take the connection back: %s; trying on",
                    error,
                    extra=log.fields("reconnect_refused", error=error),
                )

    async def pause(self, base: float, last_try: float | None) -> None:
        """Wait until it is time for another try of a server, about `base` seconds after its last one."""
        steps = min(max(self._refusals - 1, self._short_lives, 0), _MOST_STEPS)
        pause = min(base * _PAUSE_GROWTH**steps, max(base, LONGEST_PAUSE_S))
        # A fleet that lost its server should not come back in step.
        pause *= random.uniform(0.4, 1.0)  # noqa: S311 (spreads load)
        last = max(last_try or 0.0, self._lost_at or 0.0)
        await asyncio.sleep(max(0.0, last + pause - time.monotonic()))


def guarded(
    callback: Callable[..., Coroutine[Any, Any, None]] | None, name: str
) -> Callable[..., Coroutine[Any, Any, None]] | None:
    """Return a user's nats-py callback that raises nothing: nats-py would end its reconnecting over that."""
    if callback is None or not inspect.iscoroutinefunction(callback):
        return callback

    async def call(*arguments: Any) -> None:
        try:
            await callback(*arguments)
        except Exception:
            _log.exception("%s raised", name, extra=log.fields("callback_failed", callback=name))

    return call
