"""`natsdisc ls`: what is registered now."""

from __future__ import annotations

import click

from natsdisc.model import Instance

from .connection import Connection, connection_options
from .output import say_json
from .place import Place, place_argument
from .progress import progress
from .render import instances_json, json_option, rows_of
from .run import run
from .table import show_table
from .void import say_nothing_there

__all__ = ["ls"]


@click.command(short_help="List what is registered.")
@place_argument()
@json_option
@connection_options
def ls(place: Place, as_json: bool, connection: Connection) -> None:
    """List what is registered: everything, or what is in PLACE.

    PLACE is NS/COMPONENT/ENDPOINT/ID, or the beginning of it; spaces may stand for the slashes. Where the
    terminal is too narrow for a table, each instance is a block of lines.

    --json prints one array of the objects as they are stored, each with its place as "id": text, since
    JavaScript loses digits of the number.
    """
    instances = run(_list(connection, place))
    if as_json:
        say_json(instances_json(instances))
    elif instances:
        show_table(*rows_of(place.kind, instances))
    else:
        say_nothing_there(connection, place)


async def _list(connection: Connection, place: Place) -> list[Instance]:
    async with progress(f"listing {place.title}"), connection.open() as discovery:
        return [one for one in await discovery.list(place.query) if place.holds(one.id)]
