"""`natsdisc status`: the buckets and the server behind a registry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import click

import natsdisc
from natsdisc.entry import BUCKETS
from natsdisc.errors import PermissionDeniedError
from natsdisc.model import Kind
from natsdisc.store.jetstream.admin import Admin, Difference, Server, StreamState

from .connection import Connection, connection_options
from .output import pretty, say, say_json
from .progress import progress
from .render import counted, json_option, wrong_copy
from .run import run
from .void import bucket_names

__all__ = ["status"]

_KINDS = {name: kind for kind, name in BUCKETS.items()}


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The content of a bucket: entries, how many of them have no lease, and marks of removals."""

    state: StreamState
    entries: int
    leases: int
    without_lease: int
    tombstones: int
    overdue: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def degraded(self) -> list[str]:
        """The conditions that are not as they should be."""
        state, found = self.state, []
        if state.fault is not None:
            found.append(state.fault)
        if state.clustered and state.leader is None:
            found.append("no leader: nothing can be written")
        found += [f"replica {name} is away or behind" for name in state.peers_behind]
        if not state.leases:
            found.append("cannot hold leases yet; the first one extends it")
        if self.overdue:
            found.append(
                f"{counted(self.overdue, 'instance')} came back with a killed server, and their leases do "
                "not end: any process that registers removes them soon, and so does `natsdisc prune`"
            )
        found += [wrong_copy(state.bucket, difference) for difference in self.differences]
        return found


@click.command(short_help="Show buckets, leases, replicas, and what is degraded.")
@json_option
@connection_options
def status(as_json: bool, connection: Connection) -> None:
    """Show the buckets and the server: entries, leases, replicas, versions, and what is degraded.

    It needs the right to read every namespace. Entries without a lease stay until somebody removes them:
    see prune.
    """
    server, buckets = run(_look(connection))
    if as_json:
        say_json(pretty(_json(server, buckets)))
    else:
        _show(connection, server, buckets)


async def _look(connection: Connection) -> tuple[Server, dict[str, _Bucket | None]]:
    buckets: dict[str, _Bucket | None] = {}
    async with (
        progress("reading the buckets"),
        await Admin.connect(
            connection.servers,
            dict(connection.nats_options),
            bucket_prefix=connection.bucket_prefix,
            **connection.jetstream,
        ) as admin,
    ):
        for kind in Kind:
            name = BUCKETS[kind]
            state = await admin.state(name)
            buckets[name] = None if state is None else await _read(admin, name, state)
        return admin.server, buckets


async def _read(admin: Admin, name: str, state: StreamState) -> _Bucket:
    if state.fault is not None or (state.clustered and state.leader is None):
        return _Bucket(state, 0, 0, 0, 0)
    # A lease is written before its entry: what has none afterwards had none before.
    entries = (await admin.values(name)).keys()
    leases, subjects = await admin.leases(name), await admin.keys(name)
    return _Bucket(
        state,
        entries=len(entries),
        leases=len(leases & entries),
        without_lease=len(entries - leases),
        tombstones=len(subjects - entries),
        overdue=await _overdue(admin, name),
        differences=tuple(await admin.differences(name)) if state.replicas > 1 else (),
    )


async def _overdue(admin: Admin, name: str) -> int:
    try:
        return len(await admin.overdue(name))
    except PermissionDeniedError:
        return 0  # a reader may not look at single messages


def _json(server: Server, buckets: dict[str, _Bucket | None]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "natsdisc": natsdisc.__version__,
        "server": dataclasses.asdict(server),
        "buckets": {},
    }
    for name, bucket in buckets.items():
        fields["buckets"][name] = bucket and {
            **dataclasses.asdict(bucket.state),
            "entries": bucket.entries,
            "leases": bucket.leases,
            "without_lease": bucket.without_lease,
            "tombstones": bucket.tombstones,
            "overdue": bucket.overdue,
            "wrong_copies": [
                {"node": one.node, "extra": len(one.extra), "missing": len(one.missing)}
                for one in bucket.differences
            ],
            "degraded": bucket.degraded,
        }
    return fields


def _servers(state: StreamState) -> str:
    """Where it is kept, and how each of them is."""
    words = [f"{state.leader} leads"] if state.leader is not None else []
    words += [f"{name} is away or behind" if name in state.peers_behind else name for name in state.peers]
    return f"R{state.replicas}: {', '.join(words)}"


def _show(connection: Connection, server: Server, buckets: dict[str, _Bucket | None]) -> None:
    cluster = f", {server.name} of cluster {server.cluster}" if server.cluster else ""
    say(f"natsdisc {natsdisc.__version__}")
    say(f"server   {server.url}, nats-server {server.version}{cluster}")
    for name, bucket in buckets.items():
        if bucket is None:
            say()
            say(f"{bucket_names(connection)[_KINDS[name]]}  is not there yet")
            continue
        state = bucket.state
        say()
        say(state.bucket)
        bare = f", {bucket.without_lease} of them without a lease" if bucket.without_lease else ""
        say(f"  entries     {bucket.entries}{bare}")
        say(f"  leases      {bucket.leases}")
        say(f"  tombstones  {bucket.tombstones}")
        say(f"  watches     {state.consumers}")
        say(f"  written     {counted(state.written, 'message')} since it was made")
        stored = f"{counted(state.messages, 'message')}, {counted(state.size, 'byte')}"
        say(f"  stored      {stored} on {state.storage}")
        if state.clustered:
            say(f"  servers     {_servers(state)}")
        for fault in bucket.degraded:
            say((f"  degraded    {fault}", "yellow"))
