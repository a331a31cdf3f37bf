"""`natsdisc export`: the registry for other programs, in their own formats."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import click

from natsdisc.model import Instance

from .connection import Connection, connection_options
from .failure import Failure
from .files import replace_file
from .output import say, say_json
from .picture import follow, instances_in
from .place import Place, place_argument
from .progress import progress
from .run import run, run_until_stopped
from .sd import targets_json
from .web import serving

__all__ = ["export"]


@click.group(short_help="Feed other programs, such as Prometheus.")
def export() -> None:
    """Feed other programs with what is registered, in their own formats."""


@export.command(short_help="Targets for Prometheus, over HTTP or as a file.")
@place_argument(kinds=False)
@click.option(
    "--serve", metavar="HOST:PORT", help="Answer GET / there, for http_sd_configs; port 0 is a free one."
)
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep this file up to date, for file_sd_configs; it is replaced as a whole.",
)
@click.option("--once", is_flag=True, help="Write the file, or without one print the targets, and end.")
@connection_options
def prometheus(
    place: Place, serve: str | None, path: Path | None, once: bool, connection: Connection
) -> None:
    """Export the endpoints in PLACE as targets for Prometheus, until Ctrl-C.

    A target is the host and port of an http or tcp transport. If the metadata has a "metrics" (HOST:PORT or
    a URL), that is the target, for any transport. The labels begin with __meta_natsdisc_: namespace,
    component, endpoint, instance_id, id, status, transport, and metadata_KEY.

    While the NATS server is away, the last targets stay.
    """
    if once:
        if serve is not None:
            raise click.UsageError("--once and --serve exclude each other.")
        text = targets_json(run(_list(connection, place)))
        if path is None:
            say_json(text)
        else:
            replace_file(path, text)
        return
    if serve is None and path is None:
        raise click.UsageError("Say --serve HOST:PORT, --file PATH, or --once.")
    run_until_stopped(_export(connection, place, None if serve is None else _address(serve), path))


async def _list(connection: Connection, place: Place) -> tuple[Instance, ...]:
    async with progress(f"listing {place}"), connection.open() as discovery:
        return instances_in(tuple(await discovery.list(place.query)), place)


async def _export(
    connection: Connection, place: Place, address: tuple[str, int] | None, path: Path | None
) -> None:
    document = ""

    def take(instances: tuple[Instance, ...]) -> None:
        nonlocal document
        first, document = not document, targets_json(instances)
        if path is not None:
            try:
                replace_file(path, document)
            except Failure as error:
                if first:
                    raise
                say(f"natsdisc: warning: {error.message}; trying again at the next change", err=True)

    async with AsyncExitStack() as stack:
        discovery = await stack.enter_async_context(connection.open())
        view = await stack.enter_async_context(discovery.view(place.query))
        take(instances_in(view.instances, place))
        if address is not None:
            # Only now: Prometheus keeps its targets while nothing answers, and believes an empty list.
            say(await stack.enter_async_context(serving(*address, lambda: document)))
        await follow(view, place, take)


def _address(text: str) -> tuple[str, int]:
    """Return host and port. Raises click.UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise click.UsageError(f"--serve {text!r} is not HOST:PORT, such as 127.0.0.1:9095.")
    return host.strip("[]") or "127.0.0.1", int(port)
