"""docs/cli.md, made of each command's --help: `python -m natsdisc.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from .app import cli
from .output import say_text

__all__ = ["reference"]

_WIDTH = 100
_HEAD = """# Command line

This page is made of `natsdisc --help` and the like, by
`python -m natsdisc.cli.reference`; a test compares them.

- **Places** are written `shop/cart/checkout/1f`: namespace, component, endpoint, and the instance id in
  hexadecimal; a model card's suffix may follow. Commands also take `shop cart checkout`. In a name, `/` is
  written `%2F` and `%` is written `%25`. So are blanks, `*`, `?`, `[` and characters that cannot be seen, as
  the UTF-8 bytes of each in `%XX`.
- **JSON** has the place as `id`, a text. JavaScript loses digits of the number `instance_id` beside it.
- **Connection options** are the same everywhere. Each has a variable `NATSDISC_…`, and most also have the one
  that NATS tools use.
"""


def reference() -> str:
    """Return the page."""
    parts = [_HEAD]
    for path, command in _commands("natsdisc", cli):
        with click.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH) as ctx:
            parts.append(f"## {path}\n\n```text\n{ctx.get_help().rstrip()}\n```\n")
    return "\n".join(parts)


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            if not inner.hidden:
                yield from _commands(f"{path} {name}", inner)


if __name__ == "__main__":
    say_text(reference().rstrip())
