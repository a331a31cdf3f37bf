"""Single attempts to write to one bucket: each is one compare-and-set, and repeats nothing.

An attempt that finds another message than it expected looks at it and decides again. It raises
StoreUnavailableError when no answer comes in time; the bucket then makes another attempt.
"""

from __future__ import annotations

import math
from contextlib import suppress

from ...errors import ConflictError, DiscoveryError, StoreUnavailableError
from ...lease import read_ttl, write_ttl
from ...model import RemovalReason
from .. import RELEASED, Entry, EntryExistsError, Found, Lease, Restored, Write
from .api import FenceInFlightError, JetStreamApi, PendingAck, WrongSequenceError
from .leases import Leases
from .messages import (
    EXPECTED_SEQUENCE,
    LEASED,
    OPERATION,
    OWNER,
    REASON,
    SCHEDULE_NEXT,
    SCHEDULER,
    SIGNATURE,
    TTL,
    UPDATED,
    Forged,
    removal,
)
from .stream import Stream

__all__ = ["Attempts"]

_FOUND: dict[RemovalReason | Forged | None, Found] = {
    RemovalReason.EXPIRED: Found.EXPIRED,
    RemovalReason.UNREGISTERED: Found.REMOVED,
}


class Attempts:
    """Attempts on `stream`; a tombstone stays for `tombstone_s` seconds. Every `timeout` is in seconds."""

    def __init__(self, api: JetStreamApi, stream: Stream, leases: Leases, tombstone_s: int) -> None:
        self._api = api
        self._stream = stream
        self._leases = leases
        self._tombstone_s = tombstone_s

    async def create(self, write: Write, timeout: float) -> int:
        """Write where nothing is; see `Bucket.create`."""
        self._leases.check_time()
        await self._stream.ensure(leases=write.ttl is not None, timeout=timeout)
        await self._stream.check_room(len(write.value), timeout)
        if write.ttl is None:
            self._stream.warn_of_memory()
        expected, entry = 0, None
        while True:
            try:
                return await self._write_under_lease(write, expected, timeout, over=entry)
            except WrongSequenceError:
                expected, entry = await self.last(write.key, timeout)
            if entry is None or not write.is_somebodys(entry):
                continue  # a tombstone, or a value of nobody: write over it
            if entry.value != write.value:
                holder = await self._leases.holder(entry, timeout) if entry.leased else None
                raise EntryExistsError(entry, released=holder == RELEASED)
            if _ends_lease(write, entry):
                continue  # write over it: watches hear of no change
            revision = await self._take_same(entry, write)
            if revision is not None:
                return revision

    async def restore(self, write: Write, timeout: float) -> Restored:
        """Write what may be gone, or find what is there; see `Bucket.restore`."""
        self._leases.check_time()
        await self._stream.ensure(leases=write.ttl is not None, timeout=timeout)
        while True:
            expected, entry, removal_reason = await self._look(write.key, timeout)
            is_somebodys = entry is not None and write.is_somebodys(entry)
            if entry is not None and is_somebodys and entry.value == write.value:
                if _ends_lease(write, entry):
                    with suppress(WrongSequenceError):
                        revision = await self._write_under_lease(write, expected, timeout, over=entry)
                        return Restored(_written(write, revision, write.signature), Found.SAME)
                    continue
                same = await self._take_same(entry, write)
                if same is None:
                    continue
                revision = same
                return Restored(_written(write, revision, entry.signature), Found.SAME)
            if entry is None:
                found = _FOUND.get(removal_reason, Found.REMOVED) if expected else Found.MISSING
            else:
                found = Found.OVERWRITTEN
                if is_somebodys:
                    if await self._leases.holder(entry, timeout) not in (None, RELEASED, write.owner):
                        raise EntryExistsError(entry)
                    if entry.updated:
                        found = Found.UPDATED
            with suppress(WrongSequenceError):
                if entry is None or found is not Found.UPDATED:
                    revision = await self._write_under_lease(write, expected, timeout, over=entry)
                    return Restored(_written(write, revision, write.signature), found)
                if write.ttl is not None:
                    await self._leases.renew_now(Lease(write.key, entry.revision, write.ttl, write.owner))
                return Restored(entry, found)

    async def replace(self, write: Write, revision: int, timeout: float) -> int:
        """Write over `revision`; see `Bucket.replace`."""
        await self._stream.ensure(leases=False, timeout=timeout)
        headers = {**_headers(write, revision), UPDATED: "1"}
        written = await self._api.publish(self._stream.subject_prefix + write.key, write.value, headers)
        try:
            return await written.sequence(timeout)
        except WrongSequenceError:
            _, entry = await self.last(write.key, timeout)
            if entry is not None and (entry.value, entry.signature) == (write.value, write.signature):
                return entry.revision  # the first answer was lost
            raise self._conflict(write.key, revision) from None

    async def delete(
        self, key: str, revision: int | None, timeout: float, lease_ttl: float | None = None
    ) -> None:
        """Remove `key` and its lease; see `Bucket.delete`."""
        if not self._stream.known and not await self._stream.look():
            return
        while True:
            expected = revision
            if expected is None:
                _, entry = await self.last(key, timeout)
                if entry is None:
                    return
                expected, lease_ttl = entry.revision, entry.lease_ttl
            try:
                await (await self._publish_tombstone(key, expected, lease_ttl)).sequence(timeout)
            except WrongSequenceError:
                _, entry = await self.last(key, timeout)
                if entry is None:
                    return
                if revision is not None:
                    raise self._conflict(key, revision) from None
            else:
                return

    async def last(self, key: str, timeout: float) -> tuple[int, Entry | None]:
        """Return the sequence of the key's last message, 0 without one, and the entry if it is a value."""
        sequence, entry, _ = await self._look(key, timeout)
        return sequence, entry

    async def _look(
        self, key: str, timeout: float
    ) -> tuple[int, Entry | None, RemovalReason | Forged | None]:
        """Return what `last` does, and the reason why the last message removed the key, if it did."""
        message = await self._stream.last_message(self._stream.subject_prefix + key, timeout)
        if message is None:
            return 0, None, None
        sequence, headers, value = message.sequence, message.headers, message.data
        reason = removal(headers, self._stream.lease_prefix + key)
        if reason is not None:
            return sequence, None, reason
        leased = LEASED in headers
        entry = Entry(
            key,
            value,
            sequence,
            updated=UPDATED in headers,
            leased=leased,
            lease_ttl=read_ttl(headers.get(LEASED)),
            owner=None if leased else headers.get(OWNER),
            signature=headers.get(SIGNATURE),
        )
        return sequence, entry, None

    async def _take_same(self, entry: Entry, write: Write) -> int | None:
        """Go on with a value that is there: a first answer was lost, or the same process registers again.

        Return its revision, or None when it has to be looked at again.
        """
        try:
            if write.ttl is not None:
                await self._leases.renew_now(Lease(entry.key, entry.revision, write.ttl, write.owner))
        except WrongSequenceError:
            return None
        return entry.revision

    async def _write_under_lease(
        self, write: Write, expected: int, timeout: float, *, over: Entry | None = None
    ) -> int:
        """Write the lease, then the value, back to back; return the revision of the value.

        A crash between the two leaves a tombstone for no key, which does no harm. Without a lease, the one of
        the entry that is written `over` is ended.
        """
        lease: PendingAck | None = None
        if over is not None and _ends_lease(write, over):
            await self._leases.end(write.key, expected, timeout)
        if write.ttl is not None:
            lease = await self._leases.publish(Lease(write.key, expected, write.ttl, write.owner))
        subject, headers = self._stream.subject_prefix + write.key, _headers(write, expected)
        written = await self._api.publish(subject, write.value, headers)
        if lease is None or write.ttl is None:
            return await written.sequence(timeout)
        try:
            revision = await written.sequence(timeout)
        except FenceInFlightError:
            # Replicas take one fenced message a key at a time, and the lease has not got there yet.
            await lease.sequence(timeout)
            return await (await self._api.publish(subject, write.value, headers)).sequence(timeout)
        try:
            await lease.sequence(timeout)
        except (StoreUnavailableError, WrongSequenceError):
            self._stream.forget()
            await self._leases.renew_now(Lease(write.key, revision, write.ttl, write.owner))
        except DiscoveryError:
            # A value without the lease that was asked for would stay for ever.
            await self.delete(write.key, revision, timeout)
            raise
        return revision

    async def _publish_tombstone(self, key: str, expected: int, lease_ttl: float | None) -> PendingAck:
        if not self._stream.known:  # a renewal may have found a reason to look again meanwhile
            await self._stream.look()
        headers = {OPERATION: "DEL", EXPECTED_SEQUENCE: str(expected)}
        if self._stream.ttls:
            # A killed server may bring the lease back. With it comes no value while the tombstone is there,
            # so the tombstone stays until the lease's time is past.
            headers[TTL] = f"{max(self._tombstone_s, math.ceil(lease_ttl or 0.0))}s"
        if self._stream.leases:
            # Ends the lease in the same commit.
            headers[SCHEDULER] = self._stream.lease_prefix + key
            headers[SCHEDULE_NEXT] = "purge"
            headers[REASON] = RemovalReason.UNREGISTERED
        return await self._api.publish(self._stream.subject_prefix + key, b"", headers)

    def _conflict(self, key: str, revision: int) -> ConflictError:
        return ConflictError(
            f"could not write {key} in bucket {self._stream.bucket}: it is no longer at revision {revision}; "
            "look at what is there now"
        )


def _headers(write: Write, expected: int) -> dict[str, str]:
    """Return the headers of a value that is fenced on the revision `expected`."""
    headers = {EXPECTED_SEQUENCE: str(expected)}
    if write.ttl is not None:
        headers[LEASED] = write_ttl(write.ttl)
    elif write.owner:
        headers[OWNER] = write.owner
    if write.signature is not None:
        headers[SIGNATURE] = write.signature
    return headers


def _ends_lease(write: Write, entry: Entry) -> bool:
    """Return whether `write` has no lease, and is to outlast the lease of `entry`."""
    return write.ttl is None and entry.leased


def _written(write: Write, revision: int, signature: str | None) -> Entry:
    return Entry(write.key, write.value, revision, leased=write.ttl is not None, signature=signature)
