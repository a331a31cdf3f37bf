"""`natsdisc unregister`: take out what another process registered."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc.model import Instance, Kind

from .connection import Connection, connection_options
from .output import say, say_json
from .place import Place, find, places_arguments
from .progress import progress
from .render import instances_json, json_option
from .run import run

__all__ = ["unregister"]


@click.command(short_help="Take out what others registered.")
@places_arguments([Kind.ENDPOINT, Kind.MODEL])
@json_option
@connection_options
def unregister(kind: Kind, places: Sequence[Place], as_json: bool, connection: Connection) -> None:
    """Take endpoints out of the registry, by their paths as watch, tree and register print them.

    A process that is alive and holds a lease puts its endpoint back with its next heartbeat: stop it, or
    use drain. Nothing is taken out unless every PATH is registered. Where names hold slashes, so that a path
    could mean two things, say NS COMPONENT ENDPOINT --id HEX. --json prints an array of what was taken out.
    """
    taken = run(_unregister(connection, kind, places, as_json))
    if as_json:
        say_json(instances_json(taken))


async def _unregister(
    connection: Connection, kind: Kind, places: Sequence[Place], quiet: bool
) -> list[Instance]:
    async with progress("unregistering") as state, connection.open() as discovery:
        found = await find(discovery, kind, places)
        for instance in found:
            await discovery.unregister(instance)
            if not quiet:
                state.clear()
                say(f"unregistered  {instance.id}")
    return found
