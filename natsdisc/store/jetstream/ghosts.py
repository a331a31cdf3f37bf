"""Finding and removing the entries of one bucket whose owners are gone.

A server that was killed can read removed messages back from its files (nats-server#8505). Such an entry has
no owner, and no lease that will fire. A wrong copy of one replica is not noticed by the others.

Rules
1. A lease that is `_OVERDUE` past its time will not fire any more. Its value is dead.
2. A leased value without a lease gets one: a living owner renews it, else the server removes the value.
3. A value that only one copy has, and the stream's leader has not, is dead on that copy.
4. Every write is fenced, so an owner that comes back meanwhile wins.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from ...errors import ConflictError, StoreUnavailableError
from ...lease import read_ttl
from .api import JetStreamApi
from .messages import (
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    LEASED,
    OPERATION,
    SCHEDULE,
    SCHEDULE_NEXT,
    SCHEDULE_TARGET,
    SCHEDULE_TTL,
    SCHEDULER,
    TTL,
    removal,
)
from .stream import StoredMessage, Stream

__all__ = ["MARK", "Ghosts", "is_mark", "lease_time"]

_T = TypeVar("_T")
_R = TypeVar("_R")

# A leader fires what is overdue within a second of its election or its start.
_OVERDUE = timedelta(seconds=2)
# A lease lasts a second at least, so a younger message cannot be that overdue.
_YOUNGEST = _OVERDUE + timedelta(seconds=1)
# Leases that one sweep reads, a third of a millisecond each; the next sweep goes on behind them.
_MOST_LEASES = 5_000
_MOST_VALUES = 1_000
# The lease that a value without one is given: longer than a living owner needs for its next renewal.
_SHORTEST_LEASE, _PART_OF_TTL = 4.0, 0.4
_AT_ONCE = 50
_LEASE_REMOVED_TTL = "1s"
# The last token of the subject under which a sweep leaves its mark. A key has more tokens.
MARK, _FEWEST_DOTS = "sweep", 3


class Ghosts:
    """The search for dead entries in the bucket of `stream`."""

    def __init__(self, api: JetStreamApi, stream: Stream, tombstone_ttl: str) -> None:
        self._api = api
        self._stream = stream
        self._tombstone_ttl = tombstone_ttl
        self._resume_at: dict[str, int] = {}

    async def overdue(self, prefix: str, last: int | None = None) -> list[StoredMessage]:
        """Return the leases below the tokens of `prefix` that should have fired and will not.

        With `last`, only those up to that sequence.
        """
        filter = f"{self._stream.lease_prefix}{prefix}.>" if prefix else f"{self._stream.lease_prefix}>"
        now = self._stream.clock.read()
        found: list[StoredMessage] = []
        sequence = self._resume_at.pop(prefix, 1)
        for _ in range(_MOST_LEASES):
            # In the order in which they were written: behind the first young one there are only others.
            lease = await self._stream.next_message(filter, sequence)
            if lease is None or now - lease.stored < _YOUNGEST or (last and lease.sequence > last):
                return found
            at = lease_time(lease.headers)
            if at is not None and now - at > _OVERDUE:
                found.append(lease)
            sequence = lease.sequence + 1
        self._resume_at[prefix] = sequence
        return found

    async def without_lease(self, prefix: str) -> list[StoredMessage]:
        """Return the values below `prefix` that were written under a lease and have none."""
        values, leases = self._stream.subject_prefix, self._stream.lease_prefix
        below = f"{prefix}.>" if prefix else ">"
        keys = {subject[len(values) :] for subject in await self._stream.subjects(values + below)}
        held = {subject[len(leases) :] for subject in await self._stream.subjects(leases + below)}
        suspects = sorted(keys - held)
        suspects = random.sample(suspects, min(len(suspects), _MOST_VALUES))
        found = await _some_at_once(lambda key: self._stream.last_message(values + key), suspects)
        return [message for message in found if message is not None and self._is_leased(message)]

    async def remove_overdue(self, leases: Iterable[StoredMessage]) -> int:
        """Remove these leases with their values; return how many values."""
        return sum(await _some_at_once(self._remove_overdue, leases))

    async def _remove_overdue(self, lease: StoredMessage) -> bool:
        key = lease.subject[len(self._stream.lease_prefix) :]
        value = await self._stream.last_message(self._stream.subject_prefix + key)
        if value is not None and self._is_leased(value):
            # Fenced on the lease: a renewal, or a new registration, is a newer lease.
            fence = {EXPECTED_SEQUENCE: str(lease.sequence), EXPECTED_SUBJECT: lease.subject}
            return await self._publish(value.subject, {**self._tombstone(key), **fence})
        # A newer message takes the place of the lease, and expires.
        await self._publish(lease.subject, {EXPECTED_SEQUENCE: str(lease.sequence), TTL: _LEASE_REMOVED_TTL})
        return False

    async def give_leases(self, values: Iterable[StoredMessage]) -> int:
        """Give these values leases; return how many have one now."""
        return sum(await _some_at_once(self._give_lease, values))

    async def _give_lease(self, value: StoredMessage) -> bool:
        key = value.subject[len(self._stream.subject_prefix) :]
        lasts = max(_SHORTEST_LEASE, _PART_OF_TTL * (read_ttl(value.headers[LEASED]) or 0.0) + 1)
        return await self._publish(
            self._stream.lease_prefix + key,
            {
                SCHEDULE: f"@at {self._stream.clock.after(lasts)}",
                SCHEDULE_TARGET: value.subject,
                SCHEDULE_TTL: self._tombstone_ttl,
                OPERATION: "DEL",
                EXPECTED_SEQUENCE: str(value.sequence),
                EXPECTED_SUBJECT: value.subject,
            },
        )

    async def remove_from_copies(self, keys: Iterable[str]) -> int:
        """Remove keys that the leader does not have from every copy that has them; return how many."""
        return sum(await _some_at_once(self._remove_from_copies, keys))

    async def _remove_from_copies(self, key: str) -> bool:
        return await self._publish(
            self._stream.subject_prefix + key, {**self._tombstone(key), EXPECTED_SEQUENCE: "0"}
        )

    def _tombstone(self, key: str) -> dict[str, str]:
        """Return the headers of a removal that takes the lease along, and reads like an expiry."""
        return {
            OPERATION: "DEL",
            TTL: self._tombstone_ttl,
            SCHEDULER: self._stream.lease_prefix + key,
            SCHEDULE_NEXT: "purge",
        }

    def _is_leased(self, message: StoredMessage) -> bool:
        key = message.subject[len(self._stream.subject_prefix) :]
        return LEASED in message.headers and removal(message.headers, self._stream.lease_prefix + key) is None

    async def _publish(self, subject: str, headers: dict[str, str]) -> bool:
        try:
            await (await self._api.publish(subject, b"", headers)).sequence()
        except (ConflictError, StoreUnavailableError):
            return False  # an owner was faster, or the next sweep will do it
        return True


def is_mark(key: str) -> bool:
    """Return whether `key`, of a subject in the lease space, is a sweep's mark and no lease."""
    return key.rpartition(".")[2] == MARK and key.count(".") < _FEWEST_DOTS


def lease_time(headers: dict[str, str]) -> datetime | None:
    """Return when a lease with these headers is to fire; None if it is no lease of natsdisc's."""
    kind, _, at = headers.get(SCHEDULE, "").partition(" ")
    if kind != "@at":
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


async def _some_at_once(work: Callable[[_T], Awaitable[_R]], items: Iterable[_T]) -> list[_R]:
    """Return what `work` returns for each item, running a bounded number at a time."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(item: _T) -> _R:
        async with slots:
            return await work(item)

    return await asyncio.gather(*map(one, items))
