"""The keys of signed registrations, as the command line takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from natsdisc import InvalidValueError, Signer, Trust

__all__ = ["signing_options"]


def signing_options(signer: str | None, trusted: str | None) -> dict[str, Any]:
    """Return the options of `natsdisc.connect` for --signer and --trusted, which are paths of files.

    Raises click.UsageError for files that hold no keys; it shows no seed.
    """
    options: dict[str, Any] = {}
    try:
        if signer is not None:
            options["signer"] = Signer(Path(signer))
        if trusted is not None:
            options["trusted"] = Trust(_read(trusted))
    except InvalidValueError as error:
        raise click.UsageError(f"--signer or --trusted cannot be used: {error}") from error
    return options


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise click.UsageError(
            f'--trusted {path} is not JSON such as {{"shop": ["U…"], "*": ["U…"]}}: {type(error).__name__}'
        ) from error
