"""`natsdisc top`: a registry on a full screen, as it changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import click
from rich.live import Live

from natsdisc import View
from natsdisc.model import Added, Event, Instance

from .connection import Connection, connection_options
from .counts import Counts
from .credentials import hidden
from .keyboard import taking_keys
from .output import on_terminal, pretty, say_json
from .place import Place, place_argument
from .progress import progress
from .render import json_option
from .run import run, run_until_stopped
from .top_screen import Screen, print_once, top_json

__all__ = ["top"]

_FRAME = 0.5  # seconds between two pictures
_QUIT_KEYS = "qQ"


@click.command(short_help="Show components and what comes and goes, live.")
@place_argument()
@click.option("--once", is_flag=True, help="Print one picture and end; so it does without a terminal.")
@json_option
@connection_options
def top(place: Place, once: bool, as_json: bool, connection: Connection) -> None:
    """Show the components in PLACE, their numbers of instances, and what comes and goes.

    q or Ctrl-C ends it. AWAY counts the instances that take no new work: draining, unhealthy or disabled.
    While the connection is lost, the screen says so above the last picture. Where the terminal is narrow,
    the bottom line names the columns without room. --json prints one picture and ends.
    """
    counts = Counts()
    if once or as_json or not on_terminal():
        run(_once(connection, place, counts))
        if as_json:
            say_json(pretty(top_json(place, counts)))
        else:
            print_once(place, counts)
    else:
        # Warnings belong between the events, not over the picture.
        logging.getLogger("natsdisc").addHandler(LogHandler(counts))
        logging.getLogger("natsdisc").propagate = False
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        logging.getLogger().addHandler(LogHandler(counts))
        run_until_stopped(_draw(connection, place, counts))


async def _once(connection: Connection, place: Place, counts: Counts) -> None:
    async with progress("listing"), connection.open() as discovery:
        counts.begin(one for one in await discovery.list(place.query) if place.holds(one.id))


async def _draw(connection: Connection, place: Place, counts: Counts) -> None:
    def tell(text: str) -> None:
        counts.say("waiting", hidden(text))

    def take(event: Event) -> None:
        if place.holds(event.instance.id if isinstance(event, Added) else event.id):
            counts.take(event)

    quitting = asyncio.Event()

    def key(typed: str) -> None:
        if typed in _QUIT_KEYS:
            quitting.set()

    async with connection.open(tell=tell) as discovery, discovery.view(place.query) as view:
        counts.begin(one for one in view.instances if place.holds(one.id))
        view.subscribe(take)
        with taking_keys(key) as keys:
            screen = Screen(place, counts, lambda: view.age, keys=keys)
            with Live(get_renderable=screen.picture, screen=True, auto_refresh=False) as live:
                drawing = asyncio.create_task(_animate(live))
                watching = asyncio.create_task(_until_broken(view))
                ending = asyncio.create_task(quitting.wait())
                tasks: tuple[asyncio.Task[Any], ...] = (drawing, watching, ending)
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


async def _until_broken(view: View[Instance]) -> None:
    """Wait for ever; raises what ends the view."""
    while True:
        await view.changed()


async def _animate(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(_FRAME)


class LogHandler(logging.Handler):
    """The log of the library, as lines between the events."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(logging.INFO)
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        self._counts.say(record.levelname.lower(), hidden(record.getMessage()))
