"""`natsdisc ui`: the registry as a web page."""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress

import click

from .connection import Connection, connection_options
from .credentials import read_secret
from .failure import Failure
from .output import say
from .run import run_until_stopped

__all__ = ["ui"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_GRACE_S = 1  # open pages end by themselves; a slow one is not waited for
_ACTIONS = ("drain", "disable", "enable", "prune")


@click.command(short_help="Show the registry as a web page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8228, show_default=True, help="0 is a free port."
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="A host name under which browsers open the page, such as that of a proxy. Repeat it for more.",
)
@click.option(
    "--allow",
    metavar="ACTION,...",
    default="",
    help=f"Actions for operators: {', '.join(_ACTIONS)}. Without it the page is read-only.",
)
@click.option(
    "--ui-token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file whose first line is the token of the page. Without it, a page that listens elsewhere than "
    "on 127.0.0.1 makes one.",
)
@connection_options
def ui(
    host: str,
    port: int,
    names: tuple[str, ...],
    allow: str,
    ui_token_file: str | None,
    connection: Connection,
) -> None:
    """Show the registry as a live web page, until Ctrl-C or SIGTERM.

    The page is read-only unless --allow names actions. It listens on 127.0.0.1; elsewhere it wants a token,
    which the printed address contains.
    """
    actions = frozenset(filter(None, (word.strip() for word in allow.split(","))))
    if unknown := actions - set(_ACTIONS):
        raise click.BadParameter(
            f"no such action: {', '.join(sorted(unknown))}; there are {', '.join(_ACTIONS)}",
            param_hint="--allow",
        )
    token = read_secret(ui_token_file, "--ui-token-file") if ui_token_file else None
    if token is None and host not in _LOOPBACK:
        token = secrets.token_urlsafe(24)
    run_until_stopped(_serve(host, port, names, actions, token, connection))


async def _serve(
    host: str,
    port: int,
    names: tuple[str, ...],
    actions: frozenset[str],
    token: str | None,
    connection: Connection,
) -> None:
    try:
        import uvicorn

        from natsdisc.ui import Access, create_app
    except ImportError as error:
        raise Failure(f"natsdisc ui needs the extra `ui`: pip install 'natsdisc[ui]' ({error})") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise Failure(f"cannot listen on {host}:{port}: {error}") from error
        port = listener.getsockname()[1]
        # With a token, whoever knows it may use any name; without one, only this machine's names count.
        hosts = frozenset({*_LOOPBACK, "[::1]", *names}) if token is None else frozenset(names)
        async with connection.open() as discovery:
            app = create_app(discovery, Access(actions, token, hosts))
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S, lifespan="on"
            )
            server = uvicorn.Server(config)
            # Not `serve`: signals are handled by `run`, which cancels this.
            serving = asyncio.create_task(server._serve([listener]))
            shown = f"[{host}]" if ":" in host else host
            say(f"http://{shown}:{port}/{f'?token={token}' if token else ''}")
            try:
                await asyncio.shield(serving)
            finally:
                app.state.live.stop()
                server.should_exit = True
                with suppress(Exception):
                    await serving
