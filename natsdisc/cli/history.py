"""`natsdisc history`: what happened in a registry, and what was there at a moment."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from natsdisc.entry import BUCKETS
from natsdisc.errors import NoHistoryError
from natsdisc.history import Change, instances_at
from natsdisc.model import Added, Instance, InstanceId, Kind
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.history import DEFAULT_MAX_BYTES, HistoryState

from .connection import Connection, connection_options
from .options import SPAN, ParamType, Span
from .output import pretty, say, say_json
from .path import path_of
from .place import Place, place_argument
from .progress import progress
from .render import counted, detail, event_fields, fields_of, json_option, rows_of, span_text
from .run import run
from .table import show_table
from .void import bucket_names

__all__ = ["history"]

_SHOW = "show"
# Event channels and sources follow their endpoints: their history would say the same twice.
_KINDS = (Kind.ENDPOINT, Kind.MODEL)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_COLOURS = {"added": "green", "changed": "cyan", "removed": "red"}


class _Group(click.Group):
    """A group whose first command is meant where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_SHOW, *args]
        return super().parse_args(ctx, args)


class _Moment(ParamType):
    """A time of day, which is the last such time, or a date and a time."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the moment in UTC. Raises click.BadParameter."""
        if isinstance(value, datetime):
            return value
        now = datetime.now().astimezone()
        try:
            if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", value):
                hour, minute, second = (*map(int, value.split(":")), 0)[:3]
                moment = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
                if moment > now:
                    moment -= timedelta(days=1)
            else:
                moment = datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time such as 14:03, 14:03:20 or 2026-03-01T14:03:20Z", param, ctx)
        if moment > now:
            self.fail(f"{value!r} is in the future", param, ctx)
        return moment.astimezone(UTC)


class _Size(ParamType):
    """A number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes. Raises click.BadParameter."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12})([KMG]?)i?B?", value, re.IGNORECASE)
        if match is None or not 0 < (size := int(match[1]) * _UNITS[match[2].upper()]) < 2**62:
            self.fail(f"{value!r} is not a size such as 64M or 2G", param, ctx)
        return size


@click.group(cls=_Group, short_help="Show what happened, and what was there at a moment.")
def history() -> None:
    """Show what happened in a registry: `natsdisc history [PLACE] [--since 1h] [--at 14:03]`.

    The server keeps a history after `natsdisc history enable`; no process of natsdisc has to run for it. It
    copies each value, orderly leave and expiry from the bucket a moment after it is stored. A value that is
    replaced before that is missed. A time is that of the copy.

    `natsdisc history [PLACE]` means `natsdisc history show [PLACE]`.
    """


@history.command(_SHOW, short_help="Show what happened.")
@place_argument()
@click.option("--since", type=SPAN, help="Only what happened in this last time: 90s, 15m, 2h, 7d.")
@click.option(
    "--at",
    type=_Moment(),
    help="Show what was there then: 14:03 (local time) or a date and time.",
)
@json_option
@connection_options
def show(
    place: Place, since: float | None, at: datetime | None, as_json: bool, connection: Connection
) -> None:
    """Show what happened in PLACE, the oldest first, or with --at what was there at a moment.

    --json prints an array: with --at of instances as ls prints them, else of events as watch prints them,
    each with its "time".
    """
    if at is not None:
        if since is not None:
            raise click.UsageError("--at and --since exclude each other.")
        _show_moment(place, run(_look_back(connection, place, at)), as_json)
        return
    changes = run(_changes(connection, place, since))
    if as_json:
        say_json(pretty([{"time": one.time.isoformat(), **event_fields(one.event)} for one in changes]))
        return
    known: set[InstanceId] = set()
    for one in changes:
        _say(one, known)
    if not changes:
        say(f"natsdisc: nothing happened to {place} in that time", err=True)


@history.command(short_help="Have the server keep a history.")
@click.option("--keep", type=Span(60.0), default="7d", show_default=True, help="How long to keep an event.")
@click.option(
    "--max-size",
    type=_Size(),
    default=DEFAULT_MAX_BYTES,
    help="The most bytes of each bucket's history on disk; the oldest goes first.  [default: 256M]",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    help="Servers that keep it.  [default: 3 in a cluster of three or more servers, else 1]",
)
@json_option
@connection_options
def enable(keep: float, max_size: int, replicas: int | None, as_json: bool, connection: Connection) -> None:
    """Make the streams that keep the history, or change how much they keep; it needs an operator's rights.

    There is one for endpoints and one for model cards, on disk. Leases are not copied.
    """
    states = run(_enable(connection, keep, max_size, replicas))
    if as_json:
        say_json(pretty([_state_fields(state) for state in states]))
        return
    for state in states:
        say(
            f"{state.name}  keeps {span_text(state.keep_s)} and {state.max_bytes} bytes at most, "
            f"R{state.replicas} on file; holds {counted(state.messages, 'event')}"
        )


@history.command(short_help="Stop that, and delete what was kept.")
@click.option("--yes", is_flag=True, help="Delete it; without it the command only says what it would delete.")
@connection_options
def disable(yes: bool, connection: Connection) -> None:
    """Delete the history's streams with all that they hold; the registry itself stays as it is."""
    names = run(_disable(connection, yes))
    for name in names:
        say(f"{'deleted' if yes else 'would be deleted'}  {name}")
    if not names:
        say("natsdisc: there is no history", err=True)
    elif not yes:
        say("natsdisc: nothing was deleted; --yes deletes it", err=True)


async def _changes(connection: Connection, place: Place, since: float | None) -> list[Change]:
    async with progress(f"reading the history of {place}"), connection.open() as discovery:
        changes = await discovery.history(place.query, since=since)
    return [one for one in changes if place.holds(one.id)]


async def _look_back(connection: Connection, place: Place, at: datetime) -> dict[InstanceId, Instance | None]:
    async with progress(f"reading the history of {place}"), connection.open() as discovery:
        now = await discovery.list(place.query)
        changes = await discovery.history(place.query)
        # A history that was empty, or began later, knows nothing of that moment.
        begin = await _beginning(connection, place.kind)
    if begin is None or begin > at:
        text = "is empty" if begin is None else f"begins at {_local(begin)}"
        say(f"natsdisc: the history {text}: what was there before is known only in part", err=True)
    there = instances_at(changes, now, at)
    return {id: one for id, one in sorted(there.items(), key=lambda item: str(item[0])) if place.holds(id)}


async def _beginning(connection: Connection, kind: Kind) -> datetime | None:
    async with await _admin(connection) as admin:
        state = await admin.store.history(BUCKETS[kind]).state()
    if state is None:
        raise NoHistoryError(f"the bucket {bucket_names(connection)[kind]} has no history")
    return state.since


async def _enable(
    connection: Connection, keep: float, max_size: int, replicas: int | None
) -> list[HistoryState]:
    states = []
    async with progress("making the history"), await _admin(connection) as admin:
        for kind in _KINDS:
            one = admin.store.history(BUCKETS[kind])
            await one.enable(keep_s=keep, max_bytes=max_size, replicas=replicas)
            state = await one.state()
            assert state is not None
            states.append(state)
    return states


async def _disable(connection: Connection, really: bool) -> list[str]:
    names = []
    async with progress("deleting the history"), await _admin(connection) as admin:
        for kind in _KINDS:
            one = admin.store.history(BUCKETS[kind])
            if await one.state() is not None:
                names.append(one.name)
                if really:
                    await one.disable()
    return names


async def _admin(connection: Connection) -> Admin:
    return await Admin.connect(
        connection.servers,
        dict(connection.nats_options),
        bucket_prefix=connection.bucket_prefix,
        **connection.jetstream,
    )


def _say(change: Change, known: set[InstanceId]) -> None:
    if isinstance(change.event, Added):
        word, rest = "changed" if change.id in known else "added", detail(change.event.instance)
        known.add(change.id)
    else:
        word, rest = "removed", str(change.event.reason)
        known.discard(change.id)
    say(f"{_local(change.time)}  ", (f"{word:7}", _COLOURS[word]), f"  {path_of(change.id)}  {rest}")


def _show_moment(place: Place, there: dict[InstanceId, Instance | None], as_json: bool) -> None:
    known = [one for one in there.values() if one is not None]
    forgotten = [path_of(id) for id, one in there.items() if one is None]
    if as_json:
        fields: list[Any] = [fields_of(one) for one in known]
        say_json(pretty(fields + [{"id": path} for path in forgotten]))
        return
    if known:
        show_table(*rows_of(place.kind, known))
    for path in forgotten:
        say(f"{path}  (was there; its value is no longer kept)")
    if not there:
        say(f"natsdisc: there was nothing in {place}", err=True)


def _state_fields(state: HistoryState) -> dict[str, Any]:
    since = state.since.isoformat() if state.since is not None else None
    return {**dataclasses.asdict(state), "since": since}


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
