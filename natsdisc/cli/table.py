"""Tables that fit the terminal: columns where there is room for them, else one block of lines a row."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from .output import cell, on_terminal, say

__all__ = ["fitting", "show_table"]

_GAP = 2  # columns of the screen between two columns of a table


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: on a terminal as one that fits it, elsewhere as aligned plain text.

    Where the terminal is too narrow, each row becomes a block of lines, one a field: no field is cut or
    broken, and an address can be copied.
    """
    widths = [max(map(cell_len, column)) + _GAP for column in zip(head, *rows, strict=True)]
    if not on_terminal():
        for row in (head, *rows):
            padded = (text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
            say("".join(padded).rstrip())
    elif sum(widths) - _GAP <= Console().width:
        _draw(head, rows)
    else:
        _write_blocks(head, rows)


def fitting(
    head: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[str], width: int
) -> list[str]:
    """Return the headings of `head` that fit into `width` characters.

    Where there is no room for all, those in `least` are left out, the first of them first.
    """
    widths = {
        title: max(cell_len(text) for text in column) + _GAP
        for title, column in zip(head, zip(head, *rows, strict=True), strict=True)
    }
    kept = list(head)
    for title in least:
        if sum(widths[name] for name in kept) - _GAP <= width:
            break
        kept.remove(title)
    return kept


def _draw(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in head:
        table.add_column(title.capitalize(), no_wrap=True)
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)


def _write_blocks(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    titles = [title.lower() for title in head[1:]]
    longest = max(map(len, titles), default=0)
    for row in rows:
        say((row[0], "bright_white"))
        for title, text in zip(titles, row[1:], strict=True):
            if text:
                say((f"  {title:{longest}}  ", "bright_black"), text)
