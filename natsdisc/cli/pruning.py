"""The findings of `natsdisc prune`: how it tells dead entries from living ones."""

from __future__ import annotations

import asyncio
import fnmatch
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from natsdisc import keys
from natsdisc.entry import BUCKETS
from natsdisc.errors import ConflictError
from natsdisc.model import Kind
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.at_once import some_at_once
from natsdisc.store.jetstream.audit import Oddity, Suspicion, lease_ttl
from natsdisc.store.jetstream.inspector import Inspector
from natsdisc.store.jetstream.messages import OWNER

from .connection import Connection
from .path import path_of
from .progress import Progress, progress
from .render import span_text

__all__ = ["Fate", "Outcome", "Pruning"]

_AT_ONCE = 64
# More messages than this are looked at in a sample, for bad schedules.
_MOST_LOOKS = 100_000
# How often it is looked what became of a lent lease (seconds), and how late a server may fire one.
_LOOK_EVERY, _SLACK = 0.5, 2.0
_ENDABLE = (Suspicion.SCHEDULE, Suspicion.NOT_A_LEASE)


class Fate(StrEnum):
    """The outcome for an entry."""

    WOULD_BE_REMOVED = "would be removed"
    WOULD_BE_LENT = "would be given a lease"
    REMOVED = "removed"
    CHANGED = "changed meanwhile"
    RENEWED = "renewed by its owner"
    LENT = "has a lease again"
    STRIPPED = "loses its lease again"


@dataclass(frozen=True, slots=True)
class _Found:
    """A registration without a lease; `ttl` is that of the lease that it had."""

    kind: Kind
    path: str
    age: float  # seconds since it was last written
    key: str
    revision: int
    ttl: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of what was found, and what became of it."""

    fate: Fate
    what: str
    path: str
    key: str
    rest: str
    age: float | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The line for programs."""
        return {
            "kind": self.what,
            "path": self.path,
            "key": self.key,
            "age": self.age,
            "fate": str(self.fate),
            "removed": self.fate is Fate.REMOVED,
        }


class Pruning:
    """The entries that match `pattern` (None: no entries) and were last written `older_than` seconds ago."""

    def __init__(self, pattern: str | None, older_than: float, wait: float, foreign_schedules: bool) -> None:
        self._pattern = pattern
        self._older_than = older_than
        self._wait = wait
        self._foreign_schedules = foreign_schedules

    async def run(self, connection: Connection, *, remove: bool) -> list[Outcome]:
        """Find, and with `remove` end, what matches. Raises what `Admin` raises."""
        outcomes: list[Outcome] = []
        async with (
            progress("looking for registrations without a lease") as state,
            await Admin.connect(
                connection.servers,
                dict(connection.nats_options),
                bucket_prefix=connection.bucket_prefix,
                **connection.jetstream,
            ) as admin,
        ):
            if self._foreign_schedules:
                for kind in Kind:
                    outcomes += await _end_schedules(admin, kind, remove)
            if self._pattern is not None:
                for kind in Kind:
                    outcomes += await self._end_overdue(admin, kind, remove)
                    found = await self._find(admin, kind, state)
                    outcomes += await self._end(admin, kind, found, remove, state)
        return outcomes

    async def _find(self, admin: Admin, kind: Kind, state: Progress) -> list[_Found]:
        name = BUCKETS[kind]
        if await admin.state(name) is None:
            return []
        entries = await admin.values(name)
        # A list of leases comes in pages, and what is written meanwhile may fall between two of them: this
        # is only a first choice, and each entry is looked at by itself.
        bare = sorted(entries.keys() - await admin.leases(name))
        paths = {
            key: path for key in bare if fnmatch.fnmatchcase(path := _path(kind, key), self._pattern or "")
        }
        now = await admin.now(name)
        state.done, state.total = 0, len(paths)

        async def look(item: tuple[str, str]) -> _Found | None:
            key, path = item
            stored = await Inspector(admin).last(name, key)
            leased = stored is not None and await Inspector(admin).lease(name, key) is not None
            state.done += 1
            if stored is None or leased:
                return None
            age = max(0.0, now - stored.stored.timestamp())
            return _Found(kind, path, age, key, stored.sequence, lease_ttl(stored.headers))

        found = await some_at_once(look, paths.items(), slots=_AT_ONCE)
        return [one for one in found if one is not None and one.age >= self._older_than]

    async def _end_overdue(self, admin: Admin, kind: Kind, remove: bool) -> list[Outcome]:
        """Remove what came back with a killed server: its leases should have fired long ago."""
        overdue = await admin.overdue(BUCKETS[kind])
        paths = {key: _path(kind, key) for key in overdue}
        chosen = [
            key
            for key, path in sorted(paths.items())
            if fnmatch.fnmatchcase(path, self._pattern or "") and overdue[key] >= self._older_than
        ]
        if remove and chosen:
            await admin.remove_overdue(BUCKETS[kind], chosen)
        left = (await admin.overdue(BUCKETS[kind])).keys() if remove else set()
        fate = Fate.REMOVED if remove else Fate.WOULD_BE_REMOVED
        return [
            Outcome(
                Fate.CHANGED if key in left else fate,
                str(kind),
                paths[key],
                key,
                f"its lease should have ended {span_text(overdue[key])} ago",
                overdue[key],
            )
            for key in chosen
        ]

    async def _end(
        self, admin: Admin, kind: Kind, found: Sequence[_Found], remove: bool, state: Progress
    ) -> list[Outcome]:
        """Remove each, or let the server remove it. The order stays."""
        if not remove:
            return [
                _line(one, Fate.WOULD_BE_REMOVED if one.ttl is None else Fate.WOULD_BE_LENT) for one in found
            ]
        deadline = time.monotonic() + self._wait
        state.what, state.done, state.total = "waiting for owners that may be alive", 0, len(found)

        async def end(one: _Found) -> Outcome:
            fate = await (_remove(admin, one) if one.ttl is None else _lend(admin, one, deadline))
            state.done += 1
            return _line(one, fate)

        # Those that wait do nothing most of the time: no limit on how many wait together.
        return list(await asyncio.gather(*map(end, found)))


async def _remove(admin: Admin, one: _Found) -> Fate:
    """Remove an entry without a lease, if it still is one."""
    name = BUCKETS[one.kind]
    try:
        if await Inspector(admin).lease(name, one.key) is not None:
            return Fate.CHANGED
        await admin.delete(name, one.key, one.revision)
    except ConflictError:
        return Fate.CHANGED
    return Fate.REMOVED


async def _lend(admin: Admin, one: _Found, deadline: float) -> Fate:
    """Give an entry that has lost its lease another one, and see what becomes of it.

    Its owner may be alive, and puts the lease back with its next heartbeat: after a third of the ttl at most.
    So nothing is removed here. If nobody renews the new lease, the server removes the entry when it ends.
    """
    assert one.ttl is not None
    name = BUCKETS[one.kind]
    if not math.isfinite(one.ttl):
        return Fate.STRIPPED
    try:
        await Inspector(admin).lend(name, one.key, one.revision, one.ttl)
    except ConflictError:
        return Fate.CHANGED
    ends = time.monotonic() + one.ttl + _SLACK
    while time.monotonic() < min(ends, deadline):
        await asyncio.sleep(_LOOK_EVERY)
        fate = await _fate(admin, name, one)
        if fate is not None:
            return fate
    stripped = await Inspector(admin).lease(name, one.key) is None
    return await _fate(admin, name, one) or (Fate.STRIPPED if stripped else Fate.LENT)


async def _fate(admin: Admin, name: str, one: _Found) -> Fate | None:
    """Return what became of an entry under a lent lease; None while that is open."""
    lease = await Inspector(admin).lease(name, one.key)
    if lease is not None and OWNER in lease.headers:
        return Fate.RENEWED
    stored = await Inspector(admin).last(name, one.key)
    if stored is None or (stored.sequence != one.revision and "Nats-Scheduler" in stored.headers):
        return Fate.REMOVED
    return Fate.CHANGED if stored.sequence != one.revision else None


async def _end_schedules(admin: Admin, kind: Kind, remove: bool) -> list[Outcome]:
    name = BUCKETS[kind]
    if await admin.state(name) is None:
        return []
    found, _, _ = await Inspector(admin).odd(kind, limit=_MOST_LOOKS)
    outcomes = []
    for one in found:
        if one.suspicion not in _ENDABLE:
            continue
        fate = Fate.WOULD_BE_REMOVED
        if remove:
            fate = await _overwrite(admin, one)
        outcomes.append(Outcome(fate, "schedule", one.subject, one.subject, f"{one.suspicion}: {one.why}"))
    return outcomes


async def _overwrite(admin: Admin, one: Oddity) -> Fate:
    try:
        await Inspector(admin).overwrite(one)
    except ConflictError:
        return Fate.CHANGED
    return Fate.REMOVED


def _path(kind: Kind, key: str) -> str:
    """As it is printed everywhere; a key that is nobody's stands for itself."""
    id = keys.parse_key(kind, key)
    return path_of(id) if id is not None else key


def _line(one: _Found, fate: Fate) -> Outcome:
    return Outcome(fate, str(one.kind), one.path, one.key, f"written {span_text(one.age)} ago", one.age)
