"""`natsdisc drain`: mark what another process registered, so that nobody picks it any more."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc import Discovery
from natsdisc.errors import ConflictError
from natsdisc.model import EndpointInstance, Kind

from .connection import Connection, connection_options
from .output import say, say_json
from .place import Place, find, places_arguments
from .progress import progress
from .render import instances_json, json_option
from .run import run

__all__ = ["drain"]

_TRIES = 5  # somebody else may change it at the same time


@click.command(short_help="Mark endpoints, so that nobody picks them any more.")
@places_arguments([Kind.ENDPOINT])
@json_option
@connection_options
def drain(kind: Kind, places: Sequence[Place], as_json: bool, connection: Connection) -> None:
    """Mark endpoints as draining: they stay registered and serve, and pickers leave them out.

    PATH is what watch, tree and register print; where that could mean two things, say NS COMPONENT ENDPOINT
    --id HEX. The owner keeps the mark until it registers anew. --json prints an array of what is marked.
    """
    marked = run(_drain(connection, places, as_json))
    if as_json:
        say_json(instances_json(marked))


async def _drain(connection: Connection, places: Sequence[Place], quiet: bool) -> list[EndpointInstance]:
    marked = []
    async with progress("draining") as state, connection.open() as discovery:
        await find(discovery, Kind.ENDPOINT, places)  # all of them, or none
        for place in places:
            marked.append(await _drain_one(discovery, place))
            if not quiet:
                state.clear()
                say(f"draining  {marked[-1].id}")
    return marked


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
