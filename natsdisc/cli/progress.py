"""A word on stderr when something takes longer than people like to wait without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from .output import on_terminal, overwrite, say
from .waiting import growing

__all__ = ["Progress", "progress"]

_SILENT_FOR = 1.0  # seconds
# In a log a line stays, and what fails within this time (seconds) says so in one line.
_SILENT_IN_LOGS = 3.0
_EVERY = 0.5

# A command that already says what it does needs no second line from what it calls.
_telling: ContextVar[bool] = ContextVar("natsdisc_progress", default=False)


class Progress:
    """How far something is."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = 0
        self.total: int | None = None
        self._shown = 0

    def __str__(self) -> str:
        if self.total is None:
            return self.what
        return f"{self.what} ({self.done} of {self.total})"

    def show(self) -> None:
        """Say it, over what was said before."""
        text = f"natsdisc: {self}"
        overwrite(text, self._shown)
        self._shown = len(text)

    def clear(self) -> None:
        """Make room for other lines."""
        if self._shown:
            overwrite("", self._shown)
            overwrite("", 0)
        self._shown = 0


@asynccontextmanager
async def progress(what: str, *, in_logs: bool = True) -> AsyncIterator[Progress]:
    """Say what is going on until it is done, after a moment of silence.

    On a terminal it is one line that goes away; elsewhere a line now and then, with growing pauses, or with
    `in_logs=False` nothing.
    """
    state = Progress(what)
    if _telling.get() or not (in_logs or on_terminal(err=True)):
        yield state
        return
    token = _telling.set(True)
    telling = asyncio.create_task(_draw(state) if on_terminal(err=True) else _tell(state))
    try:
        yield state
    finally:
        _telling.reset(token)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        state.clear()


async def _draw(state: Progress) -> None:
    await asyncio.sleep(_SILENT_FOR)
    while True:
        state.show()
        await asyncio.sleep(_EVERY)


async def _tell(state: Progress) -> None:
    began = time.monotonic()
    for moment in (_SILENT_IN_LOGS, *growing()):
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        say(f"natsdisc: still {state}, for {time.monotonic() - began:.0f} s now", err=True)
