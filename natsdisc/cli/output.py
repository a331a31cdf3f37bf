"""The only place where commands write: what others wrote reaches no terminal, pipe or JSON line unescaped."""

from __future__ import annotations

import json
import sys
from typing import Any, TypeAlias

import click
from rich.text import Text

from natsdisc.safe import safe, safe_json

__all__ = ["cell", "on_terminal", "overwrite", "pretty", "say", "say_json", "say_text"]

# A text, or a text and its colour, which only a terminal gets.
Part: TypeAlias = str | tuple[str, str]


def on_terminal(*, err: bool = False) -> bool:
    """Return whether a person looks at stdout, or with `err` at stderr."""
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
    click.echo(safe_json(document))


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
