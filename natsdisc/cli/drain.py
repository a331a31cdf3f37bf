"""`natsdisc drain`: mark what another process registered, so that it gets no new work."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc import Discovery, endpoints
from natsdisc.errors import ConflictError
from natsdisc.model import EndpointInstance, EndpointInstanceId, Instance, Kind

from .connection import Connection, connection_options
from .output import say, say_json
from .path import path_of
from .place import Place, places_arguments
from .progress import progress
from .render import instances_json, json_option
from .run import run
from .targets import find

__all__ = ["drain"]

_TRIES = 5  # somebody else may change it at the same time


@click.command(short_help="Mark endpoints, so that they get no new work.")
@places_arguments([Kind.ENDPOINT])
@json_option
@connection_options
def drain(places: Sequence[Place], as_json: bool, connection: Connection) -> None:
    """Mark endpoints as draining: they stay registered and serve, and pickers leave them out.

    PLACE is NS/COMPONENT/ENDPOINT/ID, as watch, tree and register print it; without the ID it means all
    instances of the endpoint. --json prints an array of what is marked.
    """
    marked = run(_drain(connection, places, as_json))
    if as_json:
        say_json(instances_json(marked))


async def _drain(connection: Connection, places: Sequence[Place], quiet: bool) -> list[Instance]:
    marked: list[Instance] = []
    async with progress("draining") as state, connection.open() as discovery:
        for instance in await find(discovery, places):
            assert isinstance(instance, EndpointInstance)
            marked.append(await _drain_one(discovery, instance))
            if not quiet:
                state.clear()
                say(f"draining  {path_of(instance.id)}")
    return marked


async def _drain_one(discovery: Discovery, instance: EndpointInstance) -> EndpointInstance:
    for left in reversed(range(_TRIES)):
        try:
            return await discovery.drain(instance)
        except ConflictError:
            if not left:
                raise
        instance = await _again(discovery, instance.id)
    raise AssertionError("unreachable")


async def _again(discovery: Discovery, id: EndpointInstanceId) -> EndpointInstance:
    place = Place(endpoints(id.namespace, id.component, id.endpoint), id.instance_id)
    [instance] = await find(discovery, [place])
    assert isinstance(instance, EndpointInstance)
    return instance
