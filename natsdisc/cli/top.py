"""`natsdisc top`: a registry on a full screen, as it changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from natsdisc import View
from natsdisc.model import Instance, Query

from .census import Census
from .connection import Connection, connection_options
from .credentials import hidden
from .output import cell, on_terminal, pretty, say, say_json
from .progress import progress
from .query import query_arguments
from .render import counted, json_option, show_table
from .run import run, run_until_stopped

__all__ = ["top"]

_FRAME = 0.5  # seconds between two pictures
# Idle heartbeats come every 1.5 s; what is older than two of them is not being confirmed.
_FRESH = 4.0
_STYLES = {"added": "green", "changed": "cyan", "unregistered": "yellow", "warning": "red", "info": "green"}
_HEAD = ["NAMESPACE", "COMPONENT", "INSTANCES", "DRAINING", "ADDED", "CHANGED", "LEFT", "EXPIRED"]
# Title, heading, and the lines around the events.
_OVERHEAD = 8


@click.command(short_help="Show components and what comes and goes, live.")
@query_arguments
@click.option("--once", is_flag=True, help="Print one picture and end; so it does without a terminal.")
@json_option
@connection_options
def top(query: Query, once: bool, as_json: bool, connection: Connection) -> None:
    """Show components, how many instances they have, and what comes and goes, until Ctrl-C.

    A lost connection is shown, and the last picture with it. --json prints one picture and ends.
    """
    census = Census()
    if once or as_json or not on_terminal():
        run(_once(connection, query, census))
        if as_json:
            say_json(pretty(_json(query, census)))
        else:
            _print(query, census)
    else:
        # Warnings belong between the events, not over the picture.
        logging.getLogger("natsdisc").addHandler(_Into(census))
        logging.getLogger("natsdisc").propagate = False
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        logging.getLogger().addHandler(_Into(census))
        run_until_stopped(_draw(connection, query, census))


async def _once(connection: Connection, query: Query, census: Census) -> None:
    async with progress("listing"), connection.open() as discovery, discovery.view(query) as view:
        census.begin(view.instances)


async def _draw(connection: Connection, query: Query, census: Census) -> None:
    def tell(text: str) -> None:
        census.say("waiting", hidden(text))

    async with connection.open(tell=tell) as discovery, discovery.view(query) as view:
        census.begin(view.instances)
        view.subscribe(census.take)
        screen = _Screen(query, census, view)
        with Live(get_renderable=screen.picture, screen=True, auto_refresh=False) as live:
            drawing = asyncio.create_task(_animate(live))
            try:
                while True:  # until a signal, or what cannot be repaired
                    await view.changed()
            finally:
                drawing.cancel()
                await asyncio.gather(drawing, return_exceptions=True)


async def _animate(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(_FRAME)


class _Screen:
    """The picture of a moment."""

    def __init__(self, query: Query, census: Census, view: View[Instance]) -> None:
        self._query = query
        self._census = census
        self._view = view

    def picture(self) -> Group:
        """As much of it as the terminal has lines for."""
        height = max(_OVERHEAD + 2, Console().size.height)
        room = (height - _OVERHEAD) // 2
        rows = self._census.rows
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for title in _HEAD:
            table.add_column(title.capitalize(), justify="left" if title in _HEAD[:2] else "right")
        for row in _cells(self._census)[:room]:
            table.add_row(*map(cell, row))
        more = f"  and {len(rows) - room} more components" if len(rows) > room else ""
        return Group(self._title(), table, Text(more, "dim"), self._events(height - _OVERHEAD - room))

    def _title(self) -> Text:
        text = cell(f"{self._query}  ", "bold")
        text.append(_summary(self._census), "not bold")
        if self._view.age > _FRESH:
            text.append(f"  NOT CONNECTED, this is {self._view.age:.0f} s old", "red")
        return text

    def _events(self, lines: int) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        for at, word, rest in list(self._census.events)[-max(1, lines) :]:
            text.append(f"{at}  ", "dim").append(f"{word:13}", _STYLES.get(word, "red")).append(f"{rest}\n")
        return text


class _Into(logging.Handler):
    """What the library logs, as lines between the events."""

    def __init__(self, census: Census) -> None:
        super().__init__(logging.INFO)
        self._census = census

    def emit(self, record: logging.LogRecord) -> None:
        self._census.say(record.levelname.lower(), hidden(record.getMessage()))


def _summary(census: Census) -> str:
    totals = census.totals
    return (
        f"{counted(len(census.live), 'instance')}, {census.churn} came or went in the last minute, "
        f"{totals['expired'] + totals['missing']} expired, {counted(sum(totals.values()), 'event')}"
    )


def _cells(census: Census) -> list[list[str]]:
    return [
        [
            row.namespace,
            row.component,
            str(row.instances),
            str(row.draining),
            str(row.counts["added"]),
            str(row.counts["changed"]),
            str(row.counts["unregistered"]),
            str(row.counts["expired"] + row.counts["missing"]),
        ]
        for row in census.rows
    ]


def _print(query: Query, census: Census) -> None:
    say(f"{query}  {counted(len(census.live), 'instance')}")
    show_table(_HEAD[:4], [cells[:4] for cells in _cells(census)])


def _json(query: Query, census: Census) -> dict[str, Any]:
    return {
        "query": str(query),
        "instances": len(census.live),
        "components": [
            {
                "namespace": row.namespace,
                "component": row.component,
                "instances": row.instances,
                "draining": row.draining,
            }
            for row in census.rows
        ],
    }
