"""`natsdisc prune`: remove registrations without a lease, which nothing else ends."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
from dataclasses import asdict, dataclass

import click

from natsdisc import keys
from natsdisc.entry import BUCKETS
from natsdisc.errors import ConflictError
from natsdisc.model import Kind
from natsdisc.store.jetstream.admin import Admin

from .connection import Connection, connection_options
from .progress import Progress, progress
from .render import json_option, printable
from .run import run

__all__ = ["prune"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Found:
    """A registration without a lease."""

    kind: str
    path: str
    age: float  # seconds since it was last written
    key: str
    revision: int


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not an age such as 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


@click.command(short_help="Remove what has no lease, by pattern or age.")
@click.argument("pattern", required=False)
@click.option(
    "--older-than", callback=_age, metavar="AGE", help="Last written so long ago: 90s, 15m, 2h, 7d."
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are only shown.")
@json_option
@connection_options
def prune(
    pattern: str | None, older_than: float | None, yes: bool, as_json: bool, connection: Connection
) -> None:
    """Remove registrations that have no lease, by a PATTERN of paths or by age.

    PATTERN is matched against paths as `tree` shows them, with * for anything: 'shop/cart/*'. Registrations
    under a lease are never touched: their leases end them. What is written while this runs stays too.
    Without --yes nothing is removed.
    """
    if pattern is None and older_than is None:
        raise click.UsageError("Say which: a PATTERN such as 'shop/*', --older-than, or both ('*' is all).")
    removed = run(_prune(connection, pattern or "*", older_than or 0.0, yes))
    if as_json:
        shown = [{**_shown(one), "removed": gone} for one, gone in removed]
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for one, gone in removed:
        word = "removed" if gone else "changed meanwhile" if yes else "would be removed"
        click.echo(f"{word:16}  {one.kind:8}  {printable(one.path)}  written {_span(one.age)} ago")
    if not removed:
        click.echo("natsdisc: no registration without a lease matches", err=True)
    elif not yes:
        click.echo(f"natsdisc: nothing was removed; --yes removes these {len(removed)}", err=True)


def _shown(one: _Found) -> dict[str, object]:
    return {name: value for name, value in asdict(one).items() if name != "revision"}


async def _prune(
    connection: Connection, pattern: str, older_than: float, yes: bool
) -> list[tuple[_Found, bool]]:
    """What matches, and whether it was removed."""
    outcome: list[tuple[_Found, bool]] = []
    async with (
        progress("looking for registrations without a lease") as state,
        await Admin.connect(
            connection.servers, dict(connection.nats_options), bucket_prefix=connection.bucket_prefix
        ) as admin,
    ):
        for kind in Kind:
            found = [one for one in await _find(admin, kind, pattern, state) if one.age >= older_than]
            outcome += [(one, yes and await _remove(admin, kind, one)) for one in found]
    return outcome


async def _find(admin: Admin, kind: Kind, pattern: str, state: Progress) -> list[_Found]:
    name = BUCKETS[kind]
    if await admin.state(name) is None:
        return []
    entries = await admin.values(name)
    bare = sorted(entries.keys() - await admin.leases(name))
    paths = {key: path for key in bare if fnmatch.fnmatchcase(path := _path(kind, key), pattern)}
    now = await admin.now(name)
    slots = asyncio.Semaphore(_AT_ONCE)
    state.done, state.total = 0, len(paths)

    async def look(key: str, path: str) -> _Found | None:
        async with slots:
            stored = await admin.last(name, key, now)
        state.done += 1
        return _Found(str(kind), path, max(0.0, stored.age), key, stored.revision) if stored else None

    found = await asyncio.gather(*(look(key, path) for key, path in paths.items()))
    # A lease is written before its entry: what was registered anew since the first look has one now.
    leased = await admin.leases(name)
    return [one for one in found if one is not None and one.key not in leased]


def _path(kind: Kind, key: str) -> str:
    """As it is printed everywhere; a key that is nobody's stands for itself."""
    id = keys.parse_key(kind, key)
    return str(id) if id is not None else key


async def _remove(admin: Admin, kind: Kind, one: _Found) -> bool:
    try:
        await admin.delete(BUCKETS[kind], one.key, one.revision)
    except ConflictError:
        return False
    return True


def _span(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"
