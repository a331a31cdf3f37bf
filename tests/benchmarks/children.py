"""The other end of `child.py`: starting a measurement, and hearing of it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 180.0


class MeasurementError(Exception):
    """A child ended without a result."""


class Child:
    """A child process that does one action; leaving the block ends it."""

    def __init__(self, python: str, action: str, **params: Any) -> None:
        self._what = f"{params.get('peer')} {action}"
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.child", json.dumps({"action": action, **params})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def go(self) -> None:
        """Tell it to go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def ready(self) -> Any:
        """Wait until it is, and what it says then; raises MeasurementError."""
        return self._hear("ready")

    def result(self) -> Any:
        """What was measured; raises MeasurementError."""
        return self._hear("result")

    def _hear(self, kind: str) -> Any:
        assert self._process.stdout is not None
        deadline = time.monotonic() + _PATIENCE
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            received = self._process.stdout.read1(1 << 20) if readable else b""  # type: ignore[attr-defined]
            if not received:
                raise MeasurementError(f"{self._what}: {self._reason(bool(readable))}")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if kind not in message:
            raise MeasurementError(f"{self._what} said {message} instead of {kind}")
        return message[kind]

    def _reason(self, ended: bool) -> str:
        if not ended:
            return f"nothing heard for {_PATIENCE:g} s"
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with {self._process.returncode}"


def run(python: str, action: str, **params: Any) -> Any:
    """The result of one child that needs no partner; raises MeasurementError."""
    with Child(python, action, **params) as child:
        return child.result()


def can_import(python: str, module: str) -> bool:
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, cwd=ROOT)
    return done.returncode == 0


THIS_PYTHON = sys.executable
