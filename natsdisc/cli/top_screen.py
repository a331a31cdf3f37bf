"""The screen of `natsdisc top`: components, what came and went, and the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from natsdisc.model import Status

from .counts import Counts
from .output import cell, say
from .path import joined
from .place import Place
from .render import counted
from .table import fitting, show_table

__all__ = ["Screen", "print_once", "top_json"]

# Idle heartbeats come every 1.5 s: a picture older than two of them (seconds) is not being confirmed.
_FRESH = 4.0
_STYLES = {"added": "green", "changed": "cyan", "unregistered": "yellow", "warning": "red", "info": "green"}
_HEAD = ["COMPONENT", "INSTANCES", "AWAY", "ADDED", "CHANGED", "LEFT", "EXPIRED"]
# The first goes first where the terminal is narrow.
_LEAST = ["CHANGED", "ADDED", "LEFT", "EXPIRED", "AWAY", "INSTANCES"]
_WITHOUT_HISTORY = 3  # columns of one picture, which has no events
# Title, heading, the lines around the events, the keys, and the columns without room.
_OVERHEAD = 10


class Screen:
    """The picture of a moment; `age` tells how old it is, in seconds."""

    def __init__(self, place: Place, counts: Counts, age: Callable[[], float], *, keys: bool) -> None:
        self._place = place
        self._counts = counts
        self._age = age
        self._keys = "q or Ctrl-C quits" if keys else "Ctrl-C quits"

    def picture(self) -> Group:
        """Return as much of it as the terminal has room for."""
        size = Console().size
        height = max(_OVERHEAD + 2, size.height)
        room = (height - _OVERHEAD) // 2
        rows = cells_of(self._counts)
        kept = fitting(_HEAD, rows[:room], _LEAST, size.width)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        for title in kept:
            table.add_column(
                title.capitalize(), justify="left" if title == _HEAD[0] else "right", no_wrap=True
            )
        for row in rows[:room]:
            table.add_row(*(cell(text) for title, text in zip(_HEAD, row, strict=True) if title in kept))
        more = f"and {counted(len(rows) - room, 'more component')}" if len(rows) > room else ""
        return Group(
            self._title(),
            table,
            Text(more, "dim"),
            self._events(height - _OVERHEAD - room),
            self._footer(kept),
        )

    def _title(self) -> Text:
        text = cell(f"{self._place.title}  ", "bold")
        text.append(_summary(self._counts), "not bold")
        if self._age() > _FRESH:
            text.append(f"  NOT CONNECTED, this is {self._age():.0f} s old", "red")
        return text

    def _events(self, lines: int) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        for at, word, rest in list(self._counts.events)[-max(1, lines) :]:
            text.append(f"{at}  ", "dim").append(f"{word:13}", _STYLES.get(word, "red")).append(f"{rest}\n")
        return text

    def _footer(self, kept: list[str]) -> Text:
        hidden = [title.lower() for title in _HEAD if title not in kept]
        text = Text(self._keys, "bold", no_wrap=True, overflow="ellipsis")
        if hidden:
            text.append(f"\nno room for: {', '.join(hidden)}", "not bold dim")
        return text


def cells_of(counts: Counts) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            joined((row.namespace, row.component)),
            str(row.instances),
            str(row.away),
            str(row.counts["added"]),
            str(row.counts["changed"]),
            str(row.counts["unregistered"]),
            str(row.counts["expired"] + row.counts["missing"]),
        ]
        for row in counts.rows
    ]


def print_once(place: Place, counts: Counts) -> None:
    """Write one picture as a table."""
    say(f"{place.title}  {counted(len(counts.live), 'instance')}")
    rows = [cells[:_WITHOUT_HISTORY] for cells in cells_of(counts)]
    show_table(_HEAD[:_WITHOUT_HISTORY], rows)


def top_json(place: Place, counts: Counts) -> dict[str, Any]:
    """Return one picture for programs."""
    return {
        "query": place.title,
        "instances": len(counts.live),
        "components": [
            {
                "place": joined((row.namespace, row.component)),
                "namespace": row.namespace,
                "component": row.component,
                "instances": row.instances,
                **{str(status): row.statuses[status] for status in Status if status is not Status.SERVING},
            }
            for row in counts.rows
        ],
    }


def _summary(counts: Counts) -> str:
    totals = counts.totals
    return (
        f"{counted(len(counts.live), 'instance')}, {counts.churn} came or went in the last minute, "
        f"{totals['expired'] + totals['missing']} expired, {counted(sum(totals.values()), 'event')}"
    )
