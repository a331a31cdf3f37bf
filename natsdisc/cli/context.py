"""Contexts of the `nats` command: named files with a server's address and credentials."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

__all__ = ["context_names", "load_context", "selected_context"]

_KEYS = ("url", "user", "password", "token", "creds", "nkey", "cert", "key", "ca", "inbox_prefix")
# Their names in natsdisc, and in the nats command.
_RENAMED = {"domain": "jetstream_domain", "api_prefix": "jetstream_api_prefix"}
_FILES = ("creds", "nkey", "cert", "key", "ca")


def context_names(beginning: str = "") -> list[str]:
    """Return the names of the contexts that are there, sorted, for completion."""
    try:
        return sorted(file.stem for file in _folder().glob("*.json") if file.stem.startswith(beginning))
    except OSError:
        return []


def load_context(name: str) -> dict[str, str]:
    """Return the settings of the context `name`, without those that it leaves empty.

    Raises click.UsageError.
    """
    folder = _folder()
    path = folder / f"{name}.json"
    if not name or path.parent != folder or path.name != f"{name}.json":
        raise click.UsageError(f"{name!r} cannot be the name of a context.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(context_names()) or "none"
        raise click.UsageError(f"There is no context {name!r} in {folder} (there: {known}).") from None
    except (OSError, ValueError) as error:
        raise click.UsageError(f"The context {path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise click.UsageError(f"The context {path} is not a JSON object.")
    settings = {key: str(fields[key]) for key in _KEYS if fields.get(key)}
    settings |= {ours: str(fields[theirs]) for ours, theirs in _RENAMED.items() if fields.get(theirs)}
    for key in _FILES:
        if key in settings:
            settings[key] = os.path.expanduser(settings[key])
            if not os.path.isfile(settings[key]):
                raise click.UsageError(f"{key} of the context {path} names no file: {settings[key]}")
    return settings


def selected_context() -> str | None:
    """Return the name of the context that `nats context select` chose; None without one."""
    try:
        return (_folder().parent / "context.txt").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "nats" / "context"
