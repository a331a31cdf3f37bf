"""`natsdisc unregister`: take out what another process registered."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc.model import Instance, Kind

from .connection import Connection, connection_options
from .output import say, say_json
from .path import path_of
from .place import Place, places_arguments
from .progress import progress
from .render import instances_json, json_option
from .run import run
from .targets import find

__all__ = ["unregister"]


@click.command(short_help="Take out what others registered.")
@places_arguments([Kind.ENDPOINT, Kind.MODEL])
@click.option("--all", "every", is_flag=True, help="Allow a PLACE without an ID: all instances there.")
@json_option
@connection_options
def unregister(places: Sequence[Place], every: bool, as_json: bool, connection: Connection) -> None:
    """Take endpoints out of the registry, by their places as watch, tree and register print them.

    A process that is alive and holds a lease puts its endpoint back with its next heartbeat: stop it, or
    use drain. If one PLACE is not registered, nothing is taken out. --json prints an array of what was taken
    out.
    """
    for place in places:
        if place.instance_id is None and not every:
            raise click.UsageError(
                f"{place.path!r} is NS/COMPONENT/ENDPOINT without an ID: add /ID, or --all for all of them."
            )
    taken = run(_unregister(connection, places, as_json))
    if as_json:
        say_json(instances_json(taken))


async def _unregister(connection: Connection, places: Sequence[Place], quiet: bool) -> list[Instance]:
    async with progress("unregistering") as state, connection.open() as discovery:
        found = await find(discovery, places)
        for instance in found:
            await discovery.unregister(instance)
            if not quiet:
                state.clear()
                say(f"unregistered  {path_of(instance.id)}")
    return found
