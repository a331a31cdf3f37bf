"""`natsdisc ls`: what is registered now."""

from __future__ import annotations

import click

from natsdisc.model import Instance, InstanceId

from .connection import Connection, connection_options
from .output import say_json
from .place import Place, place_argument
from .progress import progress
from .render import fields_of, json_option, objects_json, rows_of
from .run import run
from .table import show_table
from .void import say_nothing_there

__all__ = ["ls"]


@click.command(short_help="List what is registered.")
@place_argument()
@click.option(
    "--leases",
    "with_leases",
    is_flag=True,
    help="Show for how long each lease still runs; one question to the server for each. Needs a registrar's "
    "rights.",
)
@json_option
@connection_options
def ls(place: Place, with_leases: bool, as_json: bool, connection: Connection) -> None:
    """List what is registered: everything, or what is in PLACE.

    PLACE is NS/COMPONENT/ENDPOINT/ID, or the beginning of it; spaces may stand for the slashes. Where the
    terminal is too narrow for a table, each instance is a block of lines.

    --json prints one array of the objects as they are stored, each with its place as "id": text, since
    JavaScript loses digits of the number.
    """
    instances, leases = run(_list(connection, place, with_leases))
    if as_json:
        fields = [fields_of(one) for one in instances]
        if with_leases:
            fields = [
                {**one, "lease_left": leases.get(instance.id)}
                for one, instance in zip(fields, instances, strict=True)
            ]
        say_json(objects_json(fields))
    elif instances:
        extra = [("LEASE", [_left(leases.get(one.id)) for one in instances])] if with_leases else []
        show_table(*rows_of(place.kind, instances, extra))
    else:
        say_nothing_there(connection, place)


async def _list(
    connection: Connection, place: Place, with_leases: bool
) -> tuple[list[Instance], dict[InstanceId, float]]:
    async with progress(f"listing {place.title}"), connection.open() as discovery:
        instances = [one for one in await discovery.list(place.query) if place.holds(one.id)]
        return instances, await discovery.leases(place.query) if with_leases else {}


def _left(seconds: float | None) -> str:
    """Return how long a lease still runs, for people."""
    if seconds is None:
        return "none"
    return f"{seconds:.1f} s" if seconds > 0 else "over"
