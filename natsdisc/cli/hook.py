"""A command that runs when the registry changes: one at a time, and never for less than the latest state."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress

from .credentials import without_secrets
from .output import say

__all__ = ["KEPT_FROM_KILLING_S", "Hook"]

KEPT_FROM_KILLING_S = 2.0  # what a command has to end after SIGTERM, before it is killed


class Hook:
    """Runs `command` with a shell, with what `state` returns on its stdin.

    It runs first when `trigger` was called for the first time, and again after each change, `settle` seconds
    after the first change since it ran: what changes meanwhile is in the same state. If it fails, that is
    logged, and it runs again at the next change. A run takes `timeout` seconds at most.
    """

    def __init__(
        self, command: str, state: Callable[[], bytes], *, settle: float = 0.2, timeout: float = 60.0
    ) -> None:
        self.runs = 0
        self.failures = 0
        self._command = command
        self._state = state
        self._settle = settle
        self._timeout = timeout
        self._due = asyncio.Event()
        self._last: bytes | None = None

    def trigger(self) -> None:
        """Say that something changed."""
        self._due.set()

    async def run_for_ever(self) -> None:
        """Run the command whenever it is due, until cancelled; a command that runs then is ended."""
        while True:
            await self._due.wait()
            await asyncio.sleep(self._settle)
            self._due.clear()
            state = self._state()
            if state == self._last:
                continue  # it came and went, and nothing is different
            if await self._run(state):
                self._last = state
            else:
                self.failures += 1
                self._last = None

    async def _run(self, state: bytes) -> bool:
        self.runs += 1
        try:
            process = await asyncio.create_subprocess_shell(
                self._command, stdin=PIPE, env=without_secrets(os.environ), start_new_session=True
            )
        except OSError as error:
            self._complain(f"cannot be started: {error.strerror or error}")
            return False
        try:
            async with asyncio.timeout(self._timeout):
                await process.communicate(state)
        except TimeoutError:
            self._complain(f"did not end within {self._timeout:g} s and was stopped")
            return False
        finally:
            await _end(process)
        if process.returncode:
            self._complain(f"ended with exit code {process.returncode}")
            return False
        return True

    def _complain(self, what: str) -> None:
        name = shlex.join(self._command.split())[:80]
        say(f"natsdisc: warning: {name} {what}; it runs again at the next change", err=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command that still runs, and all that it started."""
    if process.returncode is not None:
        return
    for number, patience in ((signal.SIGTERM, KEPT_FROM_KILLING_S), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
                return
