"""`natsdisc doctor`: the registry beside what micro services say of themselves."""

from __future__ import annotations

from natsdisc.errors import DiscoveryError
from natsdisc.integrations.micro import PING, compare, ping_of
from natsdisc.model import endpoints
from natsdisc.store.jetstream.admin import Admin

from .connection import Connection
from .finding import NOTE, OK, SKIPPED, Finding
from .render import counted

__all__ = ["micro"]

_CHECK = "micro services"
# Services in the same region reply within milliseconds; one in a turn of its own may be a little later.
_PATIENCE = 0.5
# Names that one line shows.
_SHOWN = 3


async def micro(
    connection: Connection, admin: Admin, namespace: str | None, component: str | None
) -> Finding | None:
    """Compare the endpoints that `natsdisc.integrations.micro` registered with the replies to `$SRV.PING`.

    Return None where there is nothing to compare.
    """
    try:
        async with connection.open() as discovery:
            instances = await discovery.list(endpoints(namespace, component))
        registered = [one for one in instances if "micro" in one.metadata]
        if not await admin.may_publish(PING):
            return Finding(_CHECK, SKIPPED, f"this user may not publish {PING}") if registered else None
        replies = await admin.replies(PING, _PATIENCE)
    except DiscoveryError as error:
        return Finding(_CHECK, SKIPPED, str(error))
    pings = [ping for ping in map(ping_of, replies) if ping is not None]
    if not registered:
        return None  # services that use `$SRV` alone are fine
    difference = compare(registered, pings)
    if difference.silent:
        some = ", ".join(str(one.id) for one in difference.silent[:_SHOWN])
        return Finding(
            _CHECK,
            NOTE,
            f"{counted(len(difference.silent), 'endpoint')} of {len(registered)} did not reply to {PING} "
            f"within {_PATIENCE:g} s: {some}",
            "if they are in this account, look whether their processes hang",
        )
    if difference.unregistered and namespace is None:
        some = ", ".join(sorted(f"{ping.name} {ping.id}" for ping in difference.unregistered)[:_SHOWN])
        return Finding(
            _CHECK,
            NOTE,
            f"{counted(len(difference.unregistered), 'service')} replied to {PING}, not registered: {some}",
            "fine, unless clients look for it here",
        )
    return Finding(_CHECK, OK, f"{counted(len(registered), 'endpoint')} replied to {PING}")
