"""`natsdisc watch`: every change as it comes."""

from __future__ import annotations

import sys
import time

import click
from rich.console import Console
from rich.text import Text

from natsdisc.model import Added, Event, InstanceId

from .connection import Connection, connection_options
from .output import cell, on_terminal, say, say_json
from .path import path_of
from .place import Place, place_argument
from .render import detail, event_json, json_option
from .run import run_until_stopped

__all__ = ["watch"]

_STYLES = {"added": "green", "changed": "cyan", "removed": "red"}


@click.command(short_help="Print every change as it comes.")
@place_argument()
@json_option
@connection_options
def watch(place: Place, as_json: bool, connection: Connection) -> None:
    """Print what is registered in PLACE, and then every change, until Ctrl-C.

    A removal tells its reason: unregistered, expired, or missing.

    \b
    --json prints one object a line:
      {"event":"added","id":"NS/COMPONENT/ENDPOINT/ID","instance":{...}}
      {"event":"removed","id":"NS/COMPONENT/ENDPOINT/ID","reason":"expired"}
    An instance that changed is "added" again.
    """
    run_until_stopped(_watch(connection, place, as_json), needs_reader=True)


async def _watch(connection: Connection, place: Place, as_json: bool) -> None:
    lines = _Lines()
    async with connection.open() as discovery, discovery.list_and_watch(place.query) as events:
        if on_terminal() and sys.stderr.isatty() and not as_json:
            say(f"watching {place}; Ctrl-C ends", err=True)
        async for event in events:
            if not place.holds(event.instance.id if isinstance(event, Added) else event.id):
                continue
            if as_json:
                say_json(event_json(event))
            else:
                lines.show(event)


class _Lines:
    """Events as lines for people; a change has another word than an arrival."""

    def __init__(self) -> None:
        self._known: set[InstanceId] = set()
        self._console = Console(highlight=False)

    def show(self, event: Event) -> None:
        id = event.instance.id if isinstance(event, Added) else event.id
        if isinstance(event, Added):
            word, rest = "changed" if id in self._known else "added", detail(event.instance)
            self._known.add(id)
        else:
            word, rest = "removed", str(event.reason)
            self._known.discard(id)
        line = Text(f"{time.strftime('%H:%M:%S')}  ")
        line.append(f"{word:7}", _STYLES[word]).append_text(cell(f"  {path_of(id)}  {rest}"))
        if on_terminal():
            self._console.print(line, soft_wrap=True)
        else:
            say(line.plain)
