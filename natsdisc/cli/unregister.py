"""`natsdisc unregister`: take out what another process registered."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc.model import Kind

from .connection import Connection, connection_options
from .place import Place, find, places_arguments
from .render import printable
from .run import run

__all__ = ["unregister"]


@click.command()
@places_arguments([Kind.ENDPOINT, Kind.MODEL])
@connection_options
def unregister(kind: Kind, places: Sequence[Place], connection: Connection) -> None:
    """Take endpoints out of the registry, by their paths as watch, tree and register print them.

    A process that is alive and holds a lease puts its endpoint back with its next heartbeat: stop it, or
    use drain. Nothing is taken out unless every PATH is registered. Where names hold slashes, so that a path
    could mean two things, say NS COMPONENT ENDPOINT --id HEX.
    """
    run(_unregister(connection, kind, places))


async def _unregister(connection: Connection, kind: Kind, places: Sequence[Place]) -> None:
    async with connection.open() as discovery:
        for instance in await find(discovery, kind, places):
            await discovery.unregister(instance)
            click.echo(f"unregistered  {printable(str(instance.id))}")
