"""The program that `natsdisc register ... -- COMMAND` runs and registers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from .credentials import without_secrets
from .failure import Failure

__all__ = ["Child"]


class Child:
    """A running program; it keeps our stdin, stdout and stderr, and our process group."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], *, pass_credentials: bool) -> Self:
        """Start it, without our credentials in its environment unless it should have them.

        Raises Failure when it cannot be started.
        """
        environment = dict(os.environ) if pass_credentials else without_secrets(os.environ)
        try:
            return cls(await asyncio.create_subprocess_exec(*command, env=environment))
        except OSError as error:
            raise Failure(f"{command[0]} cannot be started: {error.strerror or error}") from error

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def ended(self) -> int:
        """Wait for its end: its exit code, or 128 and the signal that ended it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def pass_on(self, number: int) -> None:
        """Hand it a signal that was for both of us, unless the terminal gave it to both."""
        if number == signal.SIGTERM or not _in_foreground():
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C goes to our whole process group."""
    if os.name != "posix":
        return True
    with suppress(OSError, ValueError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False
