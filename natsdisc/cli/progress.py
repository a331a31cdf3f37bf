"""A word on stderr when something takes longer than people like to wait without one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

__all__ = ["Progress", "progress"]

_SILENT_FOR = 1.0  # seconds
_EVERY = 0.5


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
        click.echo(f"\r{text:{self._shown}}", nl=False, err=True)
        self._shown = len(text)

    def clear(self) -> None:
        """Make room for other lines."""
        if self._shown:
            click.echo(f"\r{'':{self._shown}}\r", nl=False, err=True)
        self._shown = 0


@asynccontextmanager
async def progress(what: str) -> AsyncIterator[Progress]:
    """After a second, say on a terminal what is going on, until it is done."""
    state = Progress(what)
    telling = asyncio.create_task(_tell(state)) if sys.stderr.isatty() else None
    try:
        yield state
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        state.clear()


async def _tell(state: Progress) -> None:
    await asyncio.sleep(_SILENT_FOR)
    while True:
        state.show()
        await asyncio.sleep(_EVERY)
