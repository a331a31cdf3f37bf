"""Words for an empty list: is the registry empty, or is there none?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from natsdisc.entry import BUCKETS
from natsdisc.errors import DiscoveryError
from natsdisc.model import Kind
from natsdisc.store.jetstream.admin import Admin

from .connection import Connection
from .output import say
from .place import Place
from .run import run

__all__ = ["bucket_names", "say_nothing_there"]

_PATIENCE = 3.0  # seconds; it is only a better wording


def bucket_names(connection: Connection) -> dict[Kind, str]:
    """Return the names of the buckets, with the prefix that this registry has."""
    prefix = f"{connection.bucket_prefix}_" if connection.bucket_prefix else ""
    return {kind: f"{prefix}{name}" for kind, name in BUCKETS.items()}


def say_nothing_there(connection: Connection, *places: Place) -> None:
    """Write to stderr that nothing is at `places`, and whether a registry is there at all."""
    missing = run(_missing(connection, [place.kind for place in places]))
    for place in places:
        bucket = bucket_names(connection)[place.kind]
        if place.kind in missing:
            why = (
                f"there is no bucket {bucket} on {connection.place}: nothing was registered there yet, "
                "or the server or --bucket-prefix is another"
            )
        elif place.path:
            why = "see natsdisc tree for what is registered"
        else:
            why = f"the bucket {bucket} is empty"
        say(f"natsdisc: no {place}: {why}", err=True)


async def _missing(connection: Connection, kinds: Sequence[Kind]) -> set[Kind]:
    """Return the kinds that have no bucket, as far as this user may know."""
    missing: set[Kind] = set()
    try:
        async with asyncio.timeout(_PATIENCE):
            options = dict(connection.nats_options)
            async with await Admin.connect(
                connection.servers, options, bucket_prefix=connection.bucket_prefix, **connection.jetstream
            ) as admin:
                for kind in kinds:
                    if await admin.state(BUCKETS[kind]) is None:
                        missing.add(kind)
    except (DiscoveryError, TimeoutError):
        pass  # a confined reader may not look, and it has its list
    return missing
