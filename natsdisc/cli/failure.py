"""Failures, as one line on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import IO, Any, Self

import click

from natsdisc.errors import (
    DiscoveryError,
    InvalidIdError,
    InvalidNameError,
    InvalidQueryError,
    InvalidValueError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from natsdisc.safe import safe

from .credentials import hidden
from .output import say

__all__ = ["ExitCode", "Failure"]


class ExitCode(IntEnum):
    """How the process ends; the group's help text explains them."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


_CODES: tuple[tuple[type[DiscoveryError], ExitCode], ...] = (
    (InvalidNameError, ExitCode.USAGE),
    (InvalidIdError, ExitCode.USAGE),
    (InvalidQueryError, ExitCode.USAGE),
    (InvalidValueError, ExitCode.USAGE),
    (StoreUnavailableError, ExitCode.UNAVAILABLE),
    (PermissionDeniedError, ExitCode.UNAVAILABLE),
)


class Failure(click.ClickException):
    """The end of a command with `natsdisc: error: …`, lines of `details` below it, and an exit code."""

    def __init__(
        self, message: str, exit_code: ExitCode = ExitCode.FAILED, *, details: Sequence[str] = ()
    ) -> None:
        # Errors quote the server's URL, and a URL may hold a password.
        super().__init__(safe(hidden(message)))
        self.details = tuple(map(hidden, details))
        self.exit_code = int(exit_code)  # type: ignore[misc]  # click reads it from the instance

    @classmethod
    def of(cls, error: DiscoveryError) -> Self:
        """Return the failure that `error` means; only an embedded server's error has more than one line."""
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)
        first, *rest = str(error).split("\n")
        return cls(first, code, details=[line.strip() for line in rest])

    @classmethod
    def of_usage(cls, error: click.UsageError) -> Self:
        """A bad command line, and whose help says how it should be."""
        text = " ".join(error.format_message().split())
        command = error.ctx.command_path if error.ctx is not None else "natsdisc"
        return cls(f"{text.rstrip('.')} (see {command} --help)", ExitCode.USAGE)

    def show(self, file: IO[Any] | None = None) -> None:
        say(f"natsdisc: error: {self.message}", err=True)
        for line in self.details:
            say(f"  {line}", err=True)
