"""The wait of a command while a server is away: told at once, and again with growing pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from natsdisc import Discovery, State

from .credentials import hidden
from .output import say

__all__ = ["Tell", "Waiting", "growing", "tell_on_stderr"]

Tell = Callable[[str], None]

_LOOK_EVERY = 0.25  # seconds; a lost connection tells us, a registration that nobody confirms does not
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0  # seconds between two lines about the same thing
# A registration may be on its way, and a heartbeat of a watch late (seconds).
_PATIENCE = 1.0
# Idle heartbeats of the server come every 1.5 s: what two of them did not confirm is not being confirmed.
_FRESH = 4.0


def growing() -> list[float]:
    """Return the moments (seconds after its beginning) at which a wait is told again, for an hour."""
    moments, pause, at = [], _FIRST_PAUSE, 0.0
    while at < 3600.0:
        at += pause
        moments.append(at)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return moments


def tell_on_stderr(text: str) -> None:
    """Write what is being waited for, as a line of its own."""
    say(f"natsdisc: {hidden(text)}", err=True)


class Waiting:
    """The reasons for which the connection, the registrations and the watches of one Discovery wait.

    `options` go to `natsdisc.connect`, and `during` runs around the use of the Discovery.
    """

    def __init__(self, place: str, tell: Tell | None = None) -> None:
        self._place = place
        self._tell = tell or tell_on_stderr
        self._lost_at: float | None = None
        self._unconfirmed_at: float | None = None
        self._last_error = ""

    @property
    def options(self) -> dict[str, Any]:
        """Callbacks for nats-py, which say when the connection is lost and back."""

        async def lost() -> None:
            if self._lost_at is None:
                self._lost_at = time.monotonic()

        async def back() -> None:
            self._lost_at = None

        async def failed(error: Exception) -> None:
            self._last_error = str(error) or type(error).__name__

        return {"disconnected_cb": lost, "reconnected_cb": back, "error_cb": failed}

    @asynccontextmanager
    async def during(self, discovery: Discovery) -> AsyncIterator[None]:
        """Tell until the block ends what is being waited for."""
        telling = asyncio.create_task(self._tell_all(discovery), name="natsdisc-waiting")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell_all(self, discovery: Discovery) -> None:
        while True:
            while (reason := self._reason(discovery)) is None:  # noqa: ASYNC110 - a picture's age is no event
                await asyncio.sleep(_LOOK_EVERY)
            began = time.monotonic()
            # The library itself logs that a watch is stale, at once, and that it is in sync again.
            told = not discovery.stats().queries
            if told:
                self._tell(reason)
            moments = iter(growing())
            due = next(moments)
            while (reason := self._reason(discovery)) is not None:
                waited = time.monotonic() - began
                if waited >= due:
                    self._tell(f"{reason} (for {waited:.0f} s now)")
                    told = True
                    due = next(moments, waited + _LONGEST_PAUSE)
                await asyncio.sleep(_LOOK_EVERY)
            if told:
                self._tell(f"{self._place} answers again, after {time.monotonic() - began:.0f} s")

    def _reason(self, discovery: Discovery) -> str | None:
        """Return what is waited for, or None when all is well."""
        if self._lost_at is not None:
            error = f"; the last error was: {self._last_error}" if self._last_error else ""
            return f"not connected to {self._place}, trying again{error}"
        unconfirmed = [one.instance.id for one in discovery.registrations if one.state is State.RECOVERING]
        if not unconfirmed:
            self._unconfirmed_at = None
        elif self._unconfirmed_at is None:
            self._unconfirmed_at = time.monotonic()
        elif time.monotonic() - self._unconfirmed_at > _PATIENCE:
            return f"{self._place} does not confirm {unconfirmed[0]}, trying again"
        ages = [picture.age for picture in discovery.stats().queries.values()]
        if ages and max(ages) > _FRESH:
            return f"{self._place} confirms nothing, waiting for it"
        return None
