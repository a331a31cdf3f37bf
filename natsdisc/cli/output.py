"""The only place where commands write: what others wrote reaches no terminal, pipe or JSON line unescaped."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import click
from rich.text import Text

from natsdisc.safe import safe, safe_json

__all__ = [
    "cell",
    "discard",
    "muted",
    "on_terminal",
    "overwrite",
    "prepare",
    "pretty",
    "say",
    "say_json",
    "say_text",
]

# A text, or a text and its colour, which only a terminal gets.
Part: TypeAlias = str | tuple[str, str]


def prepare() -> None:
    """Make stdin, stdout and stderr usable: some may be closed, or unable to show each character."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The next file that is opened must not become our stdout.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def discard() -> None:
    """Send what is still buffered for stdout nowhere: its reader has gone, or its disk is full."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def muted() -> Iterator[None]:
    """Write nothing to stderr within the block, whoever writes there."""
    kept, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = kept


def on_terminal(*, err: bool = False) -> bool:
    """Return whether stdout, or with `err` stderr, is a terminal."""
    return (sys.stderr if err else sys.stdout).isatty()


def say(*parts: Part, err: bool = False) -> None:
    """Write one line: every part made safe, coloured on a terminal."""
    colours = on_terminal(err=err)
    texts = []
    for part in parts:
        text, colour = (part, None) if isinstance(part, str) else part
        texts.append(click.style(safe(text), fg=colour) if colours and colour else safe(text))
    click.echo("".join(texts), err=err)


def say_json(document: str) -> None:
    """Write a JSON document; its line breaks stay, and what stands in its strings is escaped."""
    text = safe_json(document)
    encoding = sys.stdout.encoding or "utf-8"
    if encoding.lower().replace("-", "") != "utf8":
        text = ascii_json(text)
    click.echo(text)


def say_text(text: str, *, err: bool = False) -> None:
    """Write a text of several lines of our own, each of which is made safe."""
    for line in text.split("\n"):
        say(line, err=err)


def pretty(value: Any) -> str:
    """Return `value` as JSON on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def overwrite(text: str, width: int) -> None:
    """Write over a line of stderr that had `width` characters; the cursor stays on it."""
    click.echo(f"\r{safe(text):{width}}", nl=False, err=True)


def cell(text: str, style: str = "") -> Text:
    """Return `text` for rich: safe, and without a meaning as markup."""
    return Text(safe(text), style)


def ascii_json(document: str) -> str:
    """Return a JSON document with each character outside of ASCII as its escape; the meaning stays."""
    return re.sub("[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], document)
