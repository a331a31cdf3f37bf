"""The worker processes of the demo: started, told apart, and never left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from types import TracebackType
from typing import Self

from .failure import Failure

__all__ = ["Fleet", "Worker"]

# Closing takes a worker two seconds at most when the server is gone.
_LEAVE_TIMEOUT = 4.0


class Worker:
    """One process, and what became of it: `running`, `left` or `killed`."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.state = "running"
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def leave(self) -> None:
        """Ask it to unregister and end (SIGTERM), and wait until it has."""
        self.state = "left"
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def kill(self) -> None:
        """End it without a chance to say anything (SIGKILL)."""
        self.state = "killed"
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def guard(self) -> None:
        """Raise Failure when it ends without having been told to."""
        assert self._process.stderr is not None
        words = (await self._process.stderr.read()).decode(errors="replace").strip()
        code = await self._process.wait()
        if self.state == "running":
            raise Failure(f"worker {self.name} ended by itself with exit code {code}: {words or 'no word'}")


class Fleet:
    """All workers; the end of `async with` ends those that still run."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    async def start(self, name: str, *arguments: str) -> Worker:
        """Start a worker; it is not registered yet."""
        command = [sys.executable, "-m", "natsdisc.cli", "demo-worker", *arguments]
        # Ctrl-C in the terminal is for us alone; a worker sees our end by the end of its stdin.
        group = 0 if os.name == "posix" else None
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=DEVNULL, stderr=PIPE, process_group=group
        )
        worker = Worker(name, process)
        self.workers.append(worker)
        return worker

    def find(self, name: str) -> Worker:
        """The worker of that name."""
        return next(worker for worker in self.workers if worker.name == name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [worker for worker in self.workers if worker.state == "running"]
        try:
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                await asyncio.gather(*(worker.leave() for worker in running))
        except TimeoutError:
            await asyncio.gather(*(worker.kill() for worker in running))
