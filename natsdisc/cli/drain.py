"""`natsdisc drain`: mark what another process registered, so that nobody picks it any more."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc import Discovery
from natsdisc.errors import ConflictError
from natsdisc.model import EndpointInstance, Kind

from .connection import Connection, connection_options
from .place import Place, find, places_arguments
from .render import printable
from .run import run

__all__ = ["drain"]

_TRIES = 5  # somebody else may change it at the same time


@click.command()
@places_arguments([Kind.ENDPOINT])
@connection_options
def drain(kind: Kind, places: Sequence[Place], connection: Connection) -> None:
    """Mark endpoints as draining: they stay registered and serve, and pickers leave them out.

    PATH is what watch, tree and register print; where that could mean two things, say NS COMPONENT ENDPOINT
    --id HEX. The owner keeps the mark until it registers anew.
    """
    run(_drain(connection, places))


async def _drain(connection: Connection, places: Sequence[Place]) -> None:
    async with connection.open() as discovery:
        await find(discovery, Kind.ENDPOINT, places)  # all of them, or none
        for place in places:
            drained = await _drain_one(discovery, place)
            click.echo(f"draining  {printable(str(drained.id))}")


async def _drain_one(discovery: Discovery, place: Place) -> EndpointInstance:
    for left in reversed(range(_TRIES)):
        [instance] = await find(discovery, Kind.ENDPOINT, [place])
        assert isinstance(instance, EndpointInstance)
        try:
            return await discovery.drain(instance)
        except ConflictError:
            if not left:
                raise
    raise AssertionError("unreachable")
