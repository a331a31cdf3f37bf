"""Finding and removing the entries of one bucket whose owners are gone.

A server that was killed can read removed messages back from its files (nats-server#8505). Such an entry has
no owner, and no lease that will fire. A wrong copy of one replica is not noticed by the others.

Rules
1. A lease that is `_OVERDUE` past its time will not fire any more. Its value is dead.
2. A leased value without a lease is lent one: a living owner renews it, else the server removes the value.
3. A lent lease lasts until after the next renewal of a living owner. After a restart of the one server that
   is a few seconds: each owner has to connect again, and renews then. Else it is a part of the ttl.
4. A value that only one copy has, and the stream's leader has not, is dead on that copy.
5. Every write is fenced, so an owner that comes back meanwhile wins.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from ...errors import ConflictError, StoreUnavailableError
from ...lease import read_ttl
from .api import JetStreamApi
from .at_once import some_at_once
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
from .stream import Stream
from .stream_messages import StoredMessage
from .walk import walk

__all__ = ["Ghosts", "lease_time"]

# A leader fires what is overdue within a second of its election or its start.
_OVERDUE = timedelta(seconds=2)
# A lease lasts a second at least, so a younger message cannot be that overdue.
_YOUNGEST = _OVERDUE + timedelta(seconds=1)
# Questions of one sweep for leases, a third of a millisecond each; the next sweep goes on behind them.
_MOST_LEASES = 5_000
_MOST_VALUES = 1_000
# The lease (seconds) that a value without one is lent: longer than a living owner needs for its next renewal.
_SHORTEST_LEASE_S, _PART_OF_TTL = 4.0, 0.4
# The same when every owner has to connect again, and renews when it has.
_LEASE_AFTER_RESTART_S = 3.0
_AT_ONCE = 100
_LEASE_REMOVED_TTL = "1s"


class Ghosts:
    """The search for dead entries in the bucket of `stream`."""

    def __init__(self, api: JetStreamApi, stream: Stream, tombstone_ttl: str) -> None:
        self._api = api
        self._stream = stream
        self._tombstone_ttl = tombstone_ttl
        self._resume_at: dict[str, int] = {}

    async def overdue(self, prefix: str, before: datetime | None = None) -> list[StoredMessage]:
        """Return the leases below the tokens of `prefix` that should have fired and will not.

        With `before`, only those that were stored before that moment of the leader's time.
        """
        filter = f"{self._stream.lease_prefix}{prefix}.>" if prefix else f"{self._stream.lease_prefix}>"
        now = self._stream.clock.read()
        youngest = min(now - _YOUNGEST, before or now)
        found, resume = await walk(
            lambda sequence: self._stream.next_message(filter, sequence),
            self._resume_at.pop(prefix, 1),
            self._stream.last_sequence,
            most=_MOST_LEASES,
            # Leases lie in the order in which they were written: behind a young one there are only others.
            is_too_new=lambda lease: lease.stored > youngest,
        )
        if resume is not None:
            self._resume_at[prefix] = resume
        times = ((lease, lease_time(lease.headers)) for lease in found)
        return [lease for lease, at in times if at is not None and now - at > _OVERDUE]

    async def without_lease(self, prefix: str) -> list[StoredMessage]:
        """Return the values below `prefix` that were written under a lease and have none."""
        values, leases = self._stream.subject_prefix, self._stream.lease_prefix
        below = f"{prefix}.>" if prefix else ">"
        keys = {subject[len(values) :] for subject in await self._stream.subjects(values + below)}
        held = {subject[len(leases) :] for subject in await self._stream.subjects(leases + below)}
        suspects = sorted(keys - held)
        suspects = random.sample(suspects, min(len(suspects), _MOST_VALUES))
        found = await some_at_once(
            lambda key: self._stream.last_message(values + key), suspects, slots=_AT_ONCE
        )
        return [message for message in found if message is not None and self._is_leased(message)]

    async def remove_overdue(self, leases: Iterable[StoredMessage]) -> int:
        """Remove these leases with their values; return how many values."""
        return sum(await some_at_once(self._remove_overdue, leases, slots=_AT_ONCE))

    async def _remove_overdue(self, lease: StoredMessage) -> bool:
        key = lease.subject[len(self._stream.lease_prefix) :]
        value = await self._stream.last_message(self._stream.subject_prefix + key)
        if value is not None and self._is_leased(value):
            # Fenced on the lease: a renewal, or a new registration, is a newer lease.
            fence = {EXPECTED_SEQUENCE: str(lease.sequence), EXPECTED_SUBJECT: lease.subject}
            return bool(await self._publish(value.subject, {**self._tombstone(key), **fence}))
        await self._end_lease(lease.subject, lease.sequence)
        return False

    async def lend_leases(self, values: Iterable[StoredMessage], *, after_restart: bool = False) -> int:
        """Lend leases to these values; return how many have one now.

        With `after_restart`, every owner has to connect again and renews at once: the leases are short.
        """

        async def lend(value: StoredMessage) -> bool:
            long = max(_SHORTEST_LEASE_S, _PART_OF_TTL * (read_ttl(value.headers[LEASED]) or 0.0) + 1)
            with suppress(ConflictError, StoreUnavailableError):  # the next sweep does it
                return await self.lend(value, _LEASE_AFTER_RESTART_S if after_restart else long)
            return False

        return sum(await some_at_once(lend, values, slots=_AT_ONCE))

    async def lend(self, value: StoredMessage, lasts: float) -> bool:
        """Lend a value a lease of so many seconds; return False if another value is there meanwhile.

        A lent lease names no owner. The owner of the value writes its own over it with the next renewal; else
        the server removes the value. Raises ConflictError when there is a lease, StoreUnavailableError.
        """
        key = value.subject[len(self._stream.subject_prefix) :]
        headers = {
            SCHEDULE: f"@at {self._stream.clock.after(lasts)}",
            SCHEDULE_TARGET: value.subject,
            SCHEDULE_TTL: self._tombstone_ttl,
            OPERATION: "DEL",
            # Fenced on the place of the lease: one that an owner has written meanwhile must not be shortened.
            EXPECTED_SEQUENCE: "0",
        }
        lease = self._stream.lease_prefix + key
        sequence = await (await self._api.publish(lease, b"", headers)).sequence()
        last = await self._stream.last_message(value.subject)
        if last is not None and last.sequence == value.sequence:
            return True
        if last is not None and LEASED not in last.headers:
            # A value without a lease was written meanwhile, or the value was removed: end nothing there.
            await self._end_lease(lease, sequence)
        return False

    async def _end_lease(self, subject: str, sequence: int) -> None:
        """Put a message that soon expires in the place of a lease, if it is still the last one there."""
        await self._publish(subject, {EXPECTED_SEQUENCE: str(sequence), TTL: _LEASE_REMOVED_TTL})

    async def remove_from_copies(self, keys: Iterable[str]) -> int:
        """Remove keys that the leader does not have from every copy that has them; return how many."""
        return sum(await some_at_once(self._remove_from_copies, keys, slots=_AT_ONCE))

    async def _remove_from_copies(self, key: str) -> bool:
        headers = {**self._tombstone(key), EXPECTED_SEQUENCE: "0"}
        return bool(await self._publish(self._stream.subject_prefix + key, headers))

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

    async def _publish(self, subject: str, headers: dict[str, str]) -> int:
        """Publish a message without a value; return its sequence, 0 if the fence or the server refused it."""
        try:
            return await (await self._api.publish(subject, b"", headers)).sequence()
        except (ConflictError, StoreUnavailableError):
            return 0  # an owner was faster, or the next sweep will do it


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
