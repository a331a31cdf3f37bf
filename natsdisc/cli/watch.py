"""`natsdisc watch`: every change as it comes."""

from __future__ import annotations

import asyncio
import sys
import time

import click
from rich.console import Console
from rich.text import Text

from natsdisc.model import Added, Event, InstanceId

from .connection import Connection, connection_options
from .hook import Hook
from .options import SPAN, Span
from .output import cell, on_terminal, say, say_json
from .path import path_of
from .picture import follow, instances_in
from .place import Place, place_argument
from .render import detail, event_json, instances_json, json_option
from .run import run_until_stopped

__all__ = ["watch"]

_STYLES = {"added": "green", "changed": "cyan", "removed": "red"}


@click.command(short_help="Print every change as it comes.")
@place_argument()
@click.option(
    "--exec",
    "command",
    metavar="COMMAND",
    help="Print nothing, and run this with the shell, first with what is there and again after changes. Its "
    "stdin is the JSON that ls --json prints.",
)
@click.option(
    "--settle",
    type=SPAN,
    default="200ms",
    show_default=True,
    help="With --exec: how long to wait for further changes, which are then handled together.",
)
@click.option(
    "--exec-timeout",
    type=Span(0.1),
    default="60s",
    show_default=True,
    help="With --exec: stop a COMMAND that takes longer.",
)
@json_option
@connection_options
def watch(
    place: Place,
    command: str | None,
    settle: float,
    exec_timeout: float,
    as_json: bool,
    connection: Connection,
) -> None:
    """Print what is registered in PLACE, and then every change, until Ctrl-C.

    With --exec it runs a COMMAND instead, such as one that writes a proxy's configuration and reloads it.
    There is never more than one at a time, and each gets the latest state. If it fails, that is logged, and
    it runs again at the next change. While the NATS server is away nothing runs.

    A removal tells its reason: unregistered, expired, or missing.

    \b
    --json prints one object a line:
      {"event":"added","id":"NS/COMPONENT/ENDPOINT/ID","instance":{...}}
      {"event":"removed","id":"NS/COMPONENT/ENDPOINT/ID","reason":"expired"}
    An instance that changed is "added" again.
    """
    if command is None:
        run_until_stopped(_watch(connection, place, as_json), needs_reader=True)
    elif as_json:
        raise click.UsageError("--exec and --json exclude each other: COMMAND gets JSON always.")
    else:
        run_until_stopped(_run_hook(connection, place, command, settle, exec_timeout))


async def _run_hook(
    connection: Connection, place: Place, command: str, settle: float, timeout: float
) -> None:
    async with connection.open() as discovery, discovery.view(place.query) as view:

        def state() -> bytes:
            return f"{instances_json(instances_in(view.instances, place))}\n".encode()

        hook = Hook(command, state, settle=settle, timeout=timeout)
        tasks = [
            asyncio.create_task(hook.run_for_ever()),
            asyncio.create_task(follow(view, place, lambda _: hook.trigger())),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _watch(connection: Connection, place: Place, as_json: bool) -> None:
    lines = _Lines()
    async with connection.open() as discovery, discovery.list_and_watch(place.query) as events:
        if on_terminal() and sys.stderr.isatty() and not as_json:
            say(f"watching {place}; Ctrl-C ends", err=True)
        async for event in events:
            if not place.holds(event.instance.id if isinstance(event, Added) else event.id):
                continue
            if as_json:
                say_json(event_json(event))
            else:
                lines.show(event)


class _Lines:
    """Events as lines for people; a change has another word than an arrival."""

    def __init__(self) -> None:
        self._known: set[InstanceId] = set()
        self._console = Console(highlight=False)

    def show(self, event: Event) -> None:
        id = event.instance.id if isinstance(event, Added) else event.id
        if isinstance(event, Added):
            word, rest = "changed" if id in self._known else "added", detail(event.instance)
            self._known.add(id)
        else:
            word, rest = "removed", str(event.reason)
            self._known.discard(id)
        line = Text(f"{time.strftime('%H:%M:%S')}  ")
        line.append(f"{word:7}", _STYLES[word]).append_text(cell(f"  {path_of(id)}  {rest}"))
        if on_terminal():
            self._console.print(line, soft_wrap=True)
        else:
            say(line.plain)
