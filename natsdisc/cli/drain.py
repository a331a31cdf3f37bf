"""`natsdisc drain`, `enable` and `disable`: the status of what another process registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from natsdisc import Status
from natsdisc.model import EndpointInstance, Instance, Kind

from .connection import Connection, connection_options
from .output import say, say_json
from .path import path_of
from .place import Place, places_arguments
from .progress import progress
from .render import instances_json, json_option
from .run import run
from .targets import find

__all__ = ["disable", "drain", "enable"]

_PLACE = (
    "PLACE is NS/COMPONENT/ENDPOINT/ID, as watch, tree and register print it; without the ID it means all "
    "instances of the endpoint. --json prints an array of what is marked."
)


def _command(name: str, status: Status, short: str, text: str) -> click.Command:
    """Return a command that sets `status`."""

    @places_arguments([Kind.ENDPOINT])
    @json_option
    @connection_options
    def command(places: Sequence[Place], as_json: bool, connection: Connection) -> None:
        marked = run(_mark(connection, places, status, as_json))
        if as_json:
            say_json(instances_json(marked))

    make: Callable[[Callable[..., None]], click.Command] = click.command(
        name, short_help=short, help=f"{text}\n\n{_PLACE}"
    )
    return make(command)


async def _mark(
    connection: Connection, places: Sequence[Place], status: Status, quiet: bool
) -> list[Instance]:
    marked: list[Instance] = []
    async with progress(f"setting the status {status}") as state, connection.open() as discovery:
        for instance in await find(discovery, places):
            assert isinstance(instance, EndpointInstance)
            marked.append(await discovery.set_status(instance, status))
            if not quiet:
                state.clear()
                say(f"{status}  {path_of(instance.id)}")
    return marked


drain = _command(
    "drain",
    Status.DRAINING,
    "Mark endpoints, so that they get no new work.",
    "Mark endpoints as draining: they stay registered and serve, and pickers prefer others. "
    "The owner keeps the mark until it registers anew.",
)
disable = _command(
    "disable",
    Status.DISABLED,
    "Take endpoints out of rotation.",
    "Mark endpoints as disabled: they stay registered, and are never picked, until somebody enables them. No "
    "health check and no update of their own changes that.",
)
enable = _command(
    "enable",
    Status.SERVING,
    "Put endpoints back into rotation.",
    "Mark endpoints as serving again, after drain or disable.",
)
