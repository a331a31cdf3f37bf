"""`natsdisc register`: put an endpoint into the registry for as long as this command, or another, runs."""

from __future__ import annotations

import json
import shutil
from typing import Any

import click

from natsdisc.model import EndpointSpec, Transport

from .connection import Connection, connection_options
from .holding import Holding
from .options import instance_id_option
from .render import json_option
from .run import Stopped, run, survives_hangup

__all__ = ["register"]

# What people write for the kinds that the library itself knows.
_KINDS = {"nats": "nats_tcp"}


def _transport(ctx: click.Context, param: click.Parameter, value: str) -> Transport:
    kind, equals, address = value.partition("=")
    if not (kind and equals and address):
        raise click.BadParameter(
            f"{value!r} is not KIND=ADDRESS, such as nats=shop.cart or http=http://10.0.0.7:80"
        )
    return Transport(_KINDS.get(kind, kind), address)


def _metadata(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    metadata = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=JSON, such as weight=3")
        try:
            metadata[key] = json.loads(text)
        except ValueError:
            raise click.BadParameter(
                f"the value of {key!r} is not JSON: {text} (a string is written '{key}=\"...\"')"
            ) from None
    return metadata


def _ttl(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
    try:
        return None if value == "none" else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number of seconds nor none") from None


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
@click.argument("namespace", metavar="NS")
@click.argument("component")
@click.argument("endpoint")
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
    metavar="KEY=JSON",
    help="What else to know; may be repeated.",
)
@instance_id_option("The instance id.  [default: random]")
@click.option(
    "--ttl",
    callback=_ttl,
    default="10",
    show_default=True,
    metavar="SECONDS|none",
    help="How long it outlives a crash of this command.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="When stopped, mark it as draining, and go on serving for so long. A second signal ends the wait.",
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
    namespace: str,
    component: str,
    endpoint: str,
    transport: Transport,
    metadata: dict[str, Any],
    instance_id: int | None,
    ttl: float | None,
    drain: float,
    with_parent: bool | None,
    pass_credentials: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Register an endpoint until Ctrl-C or SIGTERM; then drain it, wait, and unregister it.

    The first line is its id, printed when others can see it; with --json, the whole entry as it is stored.

    With `-- COMMAND` it runs a program, whatever it is written in, and the endpoint is registered while that
    lives. The program is stopped by the same signal, after the endpoint is unregistered, and its exit code
    is ours (128 and the signal's number if one ended it). The id then goes to stderr. The program's
    environment holds no credentials of NATS (NATS_PASSWORD, NATS_CREDS and the like), unless you say
    --pass-credentials.

    If this command is killed (kill -9), the endpoint goes when its lease ends; the program goes on.
    """
    ctx = click.get_current_context()
    command = ctx.meta.get(__name__)
    spec = EndpointSpec(namespace, component, endpoint, transport=transport, metadata=metadata)
    if with_parent is None:
        with_parent = command is not None and not survives_hangup()
    holding = Holding(
        spec,
        drain=drain,
        command=command,
        with_parent=with_parent,
        pass_credentials=pass_credentials,
        as_json=as_json,
    )
    try:
        code = run(holding.hold(connection, instance_id=instance_id, lease_ttl=ttl))
    except Stopped:
        if command is not None:
            raise  # it was not run
        code = 0
    ctx.exit(code)
