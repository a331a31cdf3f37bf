"""`natsdisc register`: put an endpoint into the registry for as long as this command, or another, runs."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import click

from natsdisc.model import EndpointSpec, Transport

from .connection import Connection, connection_options
from .health import Health, health_options, port_health
from .held import HeldRegistration
from .options import SPAN, Span
from .place import new_place_arguments
from .render import json_option
from .run import Stopped, run, survives_hangup

__all__ = ["register"]

# Short names of the kinds that the library itself knows.
_KINDS = {"nats": "nats_tcp"}


def _transport(ctx: click.Context, param: click.Parameter, value: str) -> Transport:
    kind, equals, address = value.partition("=")
    if not (kind and equals and address):
        raise click.BadParameter(
            f"{value!r} is not KIND=ADDRESS, such as nats=shop.cart or http=http://10.0.0.7:80"
        )
    return Transport(_KINDS.get(kind, kind), address)


def _metadata(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    return dict(map(_field, values))


def _field(value: str) -> tuple[str, Any]:
    """Return the key and the value of KEY=TEXT or KEY:=JSON. Raises click.BadParameter."""
    key, equals, text = value.partition("=")
    typed = key.endswith(":")
    key = key.removesuffix(":")
    if not (key and equals):
        raise click.BadParameter(
            f"{value!r} is neither KEY=TEXT, such as zone=a, nor KEY:=JSON, such as weight:=3"
        )
    if not typed:
        if key == "weight":  # which natsdisc.balance reads as a number, and ignores as a text
            raise click.BadParameter(f"weight must be a number: write weight:={text}")
        return key, text
    try:
        return key, json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        raise click.BadParameter(
            f"the value of {key!r} is not JSON: {text} (for a text write {key}={text})"
        ) from None


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _WithCommand(click.Command):
    """A command whose line may end with `-- COMMAND [ARGUMENT]...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, command = args[:at], args[at + 1 :]
            if not command:
                raise click.UsageError("There is no command after --.", ctx)
            if shutil.which(command[0]) is None:
                raise click.UsageError(f"There is no program {command[0]!r} to run.", ctx)
            ctx.meta[__name__] = command
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARGUMENT]...]"]


@click.command(cls=_WithCommand, short_help="Register an endpoint, or a program while it runs.")
@new_place_arguments
@click.option(
    "--transport",
    "-t",
    callback=_transport,
    required=True,
    metavar="KIND=ADDRESS",
    help="How to reach it: nats=SUBJECT, http=URL, tcp=HOST:PORT, or another kind.",
)
@click.option(
    "--metadata",
    "-m",
    callback=_metadata,
    multiple=True,
    metavar="KEY=TEXT|KEY:=JSON",
    help="More about it: zone=a is a text, weight:=3 and tags:='[1,2]' are JSON. May be repeated.",
)
@click.option(
    "--ttl",
    type=Span(none=True),
    default="10s",
    show_default=True,
    metavar="TIME|none",
    help="How long it outlives a crash of this command.",
)
@click.option(
    "--drain",
    type=SPAN,
    default="1s",
    show_default=True,
    help="When stopped, mark it as draining, and go on serving for so long. A second signal ends the wait.",
)
@health_options
@click.option(
    "--ready-timeout",
    type=SPAN,
    default="60s",
    show_default=True,
    help="How long to wait for a COMMAND, or for the first successful check, before registering; 0 does not "
    "wait.",
)
@click.option(
    "--with-parent/--no-with-parent",
    default=None,
    help="Stop too when the process that started this one ends, such as a shell that is killed.  "
    "[default: with a COMMAND, unless under nohup]",
)
@click.option(
    "--pass-credentials",
    is_flag=True,
    help="Leave NATS_PASSWORD, NATS_TOKEN, NATS_CREDS and the like in the environment of COMMAND.",
)
@json_option
@connection_options
def register(
    names: tuple[str, str, str],
    instance_id: int | None,
    transport: Transport,
    metadata: dict[str, Any],
    ttl: float,
    drain: float,
    health: Health | None,
    ready_timeout: float,
    with_parent: bool | None,
    pass_credentials: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Register an endpoint until Ctrl-C or SIGTERM; then drain it, wait, and unregister it.

    PLACE is NS/COMPONENT/ENDPOINT or NS COMPONENT ENDPOINT. The first line is the place with its id, printed
    when others can see it; with --json, the whole entry as it is stored.

    With `-- COMMAND` it runs a program, whatever it is written in, and the endpoint is registered while that
    lives. It registers once the program is ready: its checks succeed or, without checks, the port of an http
    or tcp transport accepts. The same signal stops the program after the endpoint is unregistered. This
    command then exits with the program's exit code (128 and the signal's number if one ended it). The id goes
    to stderr. The program's environment holds no credentials of NATS (NATS_PASSWORD, NATS_CREDS and the
    like), unless you say --pass-credentials.

    With checks, the endpoint is marked as unhealthy while they fail: pickers leave it out, and its lease is
    renewed all the same.

    If this command is killed (kill -9), the endpoint goes when its lease ends; the program goes on.
    """
    ctx = click.get_current_context()
    command = ctx.meta.get(__name__)
    spec = EndpointSpec(*names, transport=transport, metadata=metadata)
    if with_parent is None:
        with_parent = command is not None and not survives_hangup()
    # A program that was just started is not ready; one that runs already is not ours to judge.
    ready = port_health(transport) if command is not None and health is None else health
    held = HeldRegistration(
        spec,
        drain=drain,
        command=command,
        health=health,
        ready=ready if ready_timeout > 0 else None,
        ready_timeout=ready_timeout,
        with_parent=with_parent,
        pass_credentials=pass_credentials,
        as_json=as_json,
    )
    lease_ttl = None if ttl == math.inf else ttl
    try:
        code = run(held.hold(connection, instance_id=instance_id, lease_ttl=lease_ttl))
    except Stopped:
        if command is not None:
            raise  # it was not run
        code = 0
    ctx.exit(code)
