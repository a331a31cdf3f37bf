"""`natsdisc register`: put an endpoint into the registry for as long as the command runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from natsdisc.model import EndpointSpec, Transport, check_instance_id

from .connection import Connection, connection_options
from .failure import Failure
from .render import printable
from .run import run_until_stopped

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


def _instance_id(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        instance_id = int(value, 16)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a hexadecimal number") from None
    check_instance_id(instance_id)
    return instance_id


def _ttl(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
    try:
        return None if value == "none" else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number of seconds nor none") from None


@click.command()
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
@click.option(
    "--id", "instance_id", callback=_instance_id, metavar="HEX", help="The instance id.  [default: random]"
)
@click.option(
    "--ttl",
    callback=_ttl,
    default="10",
    show_default=True,
    metavar="SECONDS|none",
    help="How long it outlives a crash of this command.",
)
@connection_options
def register(
    namespace: str,
    component: str,
    endpoint: str,
    transport: Transport,
    metadata: dict[str, Any],
    instance_id: int | None,
    ttl: float | None,
    connection: Connection,
) -> None:
    """Register an endpoint until Ctrl-C or SIGTERM, then unregister it at once.

    The first line is its id, printed when others can see it.
    """
    spec = EndpointSpec(namespace, component, endpoint, transport=transport, metadata=metadata)
    run_until_stopped(_hold(connection, spec, instance_id, ttl))


async def _hold(
    connection: Connection, spec: EndpointSpec, instance_id: int | None, lease_ttl: float | None
) -> None:
    lost = asyncio.Event()
    options: dict[str, Any] = {"instance_id": instance_id, "lease_ttl": lease_ttl}
    async with connection.open(on_lost=lambda _: lost.set(), **options) as discovery:
        instance = await discovery.register(spec)
        click.echo(printable(str(instance.id)))
        await lost.wait()
        raise Failure(f"{instance.id} was taken by another owner")
