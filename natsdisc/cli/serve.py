"""`natsdisc serve`: a nats-server with JetStream, for trying things out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from natsdisc.server import NatsServer

from .failure import Failure
from .output import say
from .run import run_until_stopped

__all__ = ["serve"]

# Only the one who waits for a message about a server that died notices this (seconds).
_POLL_INTERVAL = 0.2
_LOG_TAIL = 5


@click.command(short_help="Run a nats-server, for trying things out.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=4222,
    show_default=True,
    help="Where to listen on 127.0.0.1; 0 is a free one.",
)
@click.option(
    "--store-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the data stays.  [default: a temporary directory]",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="More nats-server configuration; it wins over what is generated.",
)
def serve(port: int, store_dir: Path | None, config: Path | None) -> None:
    """Run a nats-server with JetStream until Ctrl-C or SIGTERM.

    The first line is its URL, printed when it takes clients.
    """
    try:
        text = None if config is None else config.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{config} cannot be read: {error}") from error
    run_until_stopped(_serve(NatsServer(port=port, store_dir=store_dir, config=text), store_dir is None))


async def _serve(server: NatsServer, temporary: bool) -> None:
    async with server:
        say(server.url)
        fate = "removed at the end" if temporary else "kept"
        say(f"nats-server {server.version}, data in {server.store_dir} ({fate}); Ctrl-C ends")
        while server.running:  # noqa: ASYNC110 - a server has no event for its end
            await asyncio.sleep(_POLL_INTERVAL)
        tail = server.log.splitlines()[-_LOG_TAIL:]
        raise Failure("the nats-server has ended by itself; the end of its log:", details=tail)
