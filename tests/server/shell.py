"""What the tests of the command line share: the real command in processes and on terminals of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 90.0  # for a command that hangs; no command takes a fifth of it
COMMAND = [sys.executable, "-W", "error", "-X", "dev", "-m", "natsdisc.cli"]
MARK = "NATSDISC_TEST_MARK"
# A session leader gets the first terminal it opens as its own, and with it Ctrl-C.
OWN_TERMINAL = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@dataclass
class Shell:
    """Runs commands with the same environment, by which their processes are known."""

    environment: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    async def start(self, *arguments: str, **options: Any) -> Process:
        options = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "env": self.environment, **options}
        command = options.pop("command", COMMAND)
        process = await asyncio.create_subprocess_exec(*command, *arguments, **options)
        self.processes.append(process)
        return process

    async def run(self, *arguments: str, **options: Any) -> Outcome:
        return await ended(await self.start(*arguments, **options))

    async def close(self) -> None:
        """End what is left of the commands, and the programs that they run: those hold our pipes open."""
        for process in self._marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        for left in self.processes:
            if left.returncode is None:
                await left.communicate()

    def survivors(self) -> list[str]:
        """The commands of all processes that were started with this environment, and still run."""
        found = []
        for process in self._marked():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def _marked(self) -> list[Path]:
        mark = f"{MARK}={self.environment[MARK]}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process)
        return found


async def ended(process: Process) -> Outcome:
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, (out or b"").decode(), (err or b"").decode())


async def line_of(stream: asyncio.StreamReader | None) -> str:
    """Its next line, the end excluded."""
    assert stream is not None
    async with asyncio.timeout(PATIENCE):
        line = await stream.readline()
    assert line, "the command has ended"
    return line.decode().rstrip("\n")


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    """The next of its lines with `text` in it."""
    while text not in (line := await line_of(stream)):
        pass
    return line


def fails(outcome: Outcome, code: int, *words: str) -> None:
    """One line on stderr."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err, outcome.err
    assert outcome.err.startswith("natsdisc: error: ")
    assert outcome.err.count("\n") == 1


class Terminal:
    """The other side of a pseudo-terminal: what a person sees and types."""

    def __init__(self, descriptor: int, process: Process) -> None:
        self.process = process
        self.code: int | None = None
        self._descriptor = descriptor
        self._seen = b""
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    @property
    def raw(self) -> str:
        return self._seen.decode(errors="replace")

    @property
    def text(self) -> str:
        """Everything that was ever written, without the control codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).replace("\r", "").rstrip()

    def shows(self, text: str) -> bool:
        """Whether it was ever written."""
        return text in self.text

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    async def end(self) -> None:
        """Wait until the command has ended and everything is read."""
        async with asyncio.timeout(PATIENCE):
            self.code = await self.process.wait()
            await self._ended.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # nobody holds the other side any more
            data = b""
        self._seen += data
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._ended.set()


@contextlib.asynccontextmanager
async def on_terminal(shell: Shell, *arguments: str, columns: int = 80) -> AsyncIterator[Terminal]:
    """Run a command on a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**shell.environment, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    process = await shell.start(
        *arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        command=[sys.executable, "-c", OWN_TERMINAL, *COMMAND],
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Terminal(ours, process)
    try:
        yield terminal
    finally:
        terminal.close()
