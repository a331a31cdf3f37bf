"""What goes wrong, as one line on stderr and an exit code."""

from __future__ import annotations

import re
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

__all__ = ["ExitCode", "Failure"]

# Errors quote the server's URL, and a URL may hold a password.
_USERINFO = re.compile(r"(?<=://)[^/@\s,'\"]+@")


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
    """Ends the command with `natsdisc: error: …` and an exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(_USERINFO.sub("***@", message))
        self.exit_code = int(exit_code)  # type: ignore[misc]  # click reads it from the instance

    @classmethod
    def of(cls, error: DiscoveryError) -> Self:
        """The failure that `error` means."""
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)
        return cls(str(error), code)

    @classmethod
    def of_usage(cls, error: click.UsageError) -> Self:
        """A bad command line, and whose help says how it should be."""
        text = " ".join(error.format_message().split())
        command = error.ctx.command_path if error.ctx is not None else "natsdisc"
        return cls(f"{text.rstrip('.')} (see {command} --help)", ExitCode.USAGE)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"natsdisc: error: {self.message}", file=file, err=True)
