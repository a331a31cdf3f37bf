"""`natsdisc ls`: what is registered now."""

from __future__ import annotations

import click

from natsdisc.model import Instance, Query

from .connection import Connection, connection_options
from .output import say, say_json
from .progress import progress
from .query import query_arguments
from .render import instances_json, json_option, rows_of, show_table
from .run import run

__all__ = ["ls"]


@click.command(short_help="List what is registered.")
@query_arguments
@json_option
@connection_options
def ls(query: Query, as_json: bool, connection: Connection) -> None:
    """List what is registered: everything, or what is below NS/COMPONENT/ENDPOINT.

    --json prints one array of the objects as they are stored.
    """
    instances = run(_list(connection, query))
    if as_json:
        say_json(instances_json(instances))
    elif instances:
        show_table(*rows_of(query.kind, instances))
    else:
        say(f"natsdisc: no {query} registered", err=True)


async def _list(connection: Connection, query: Query) -> list[Instance]:
    async with progress(f"listing {query}"), connection.open() as discovery:
        return await discovery.list(query)
