"""A store without a server, for tests of services that use natsdisc."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..clock import Clock, LoopClock, Timer
from ..errors import ConflictError, DiscoveryError, PayloadTooLargeError
from ..model import RemovalReason
from . import (
    RELEASED,
    Entry,
    EntryExistsError,
    Found,
    Holder,
    Lease,
    Reader,
    Restored,
    SignedValue,
    Sink,
    Write,
)

__all__ = ["MemoryStore"]

# nats-server's default max_payload, so that a test meets the limit that production has.
_MAX_VALUE_BYTES = 1024 * 1024
# Reasons of removals that are kept for the log lines of their owners, as tombstones are on a server.
_REMOVALS_KEPT = 1_000
_FOUND: dict[RemovalReason | None, Found] = {
    RemovalReason.EXPIRED: Found.EXPIRED,
    RemovalReason.UNREGISTERED: Found.REMOVED,
}


class MemoryStore:
    """Buckets in this process; every Discovery on one MemoryStore sees the others.

    Leases run in `clock`: with a `natsdisc.ManualClock` a test moves time itself.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else LoopClock()
        self._buckets: dict[str, MemoryBucket] = {}

    @property
    def clock(self) -> Clock:
        return self._clock

    def bucket(self, name: str) -> MemoryBucket:
        """The bucket `name`."""
        return self._buckets.setdefault(name, MemoryBucket(self._clock, name))

    async def ping(self, timeout: float) -> None:
        """Return at once: this store is always there."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Nothing ever breaks here: the callback is never called."""
        return lambda: None

    def attach(self) -> None:
        """Nothing is held for a user."""

    async def detach(self) -> None:
        """Nothing to free: the buckets outlive their users, as on a server."""


class MemoryBucket:
    """The contract of `natsdisc.store.Bucket` on a dict."""

    def __init__(self, clock: Clock, name: str = "") -> None:
        self._clock = clock
        self.name = name
        self._entries: dict[str, Entry] = {}
        self._leases: dict[str, _HeldLease] = {}
        self._readers: set[_MemoryReader] = set()
        self._revision = 0
        self._removed: dict[str, RemovalReason] = {}

    async def ready(self, timeout: float) -> None:
        """Return at once: there is no connection to wait for."""

    async def create(self, write: Write) -> int:
        await asyncio.sleep(0)
        entry = self._entries.get(write.key)
        if entry is None or not write.is_somebodys(entry):
            entry = self._write(write)
        elif entry.value != write.value:
            held = self._leases.get(write.key)
            raise EntryExistsError(entry, released=held is not None and held.owner == RELEASED)
        self._set_lease(write.key, write.ttl, write.owner)
        return entry.revision

    async def restore(self, write: Write) -> Restored:
        await asyncio.sleep(0)
        key = write.key
        entry = self._entries.get(key)
        if entry is None:
            found = _FOUND.get(self._removed.get(key), Found.MISSING)
        elif not write.is_somebodys(entry):
            found = Found.OVERWRITTEN
        elif entry.value == write.value:
            found = Found.SAME
        else:
            found = Found.OVERWRITTEN
            held = self._leases.get(key)
            holder = held.owner if held is not None else entry.owner
            if holder not in (None, RELEASED, write.owner):
                raise EntryExistsError(entry)
            if entry.updated:
                found = Found.UPDATED
        if entry is None or found is Found.OVERWRITTEN:
            entry = self._write(write)
        self._set_lease(key, write.ttl, write.owner)
        return Restored(entry, found)

    async def replace(self, write: Write, *, revision: int) -> int:
        await asyncio.sleep(0)
        self._check_fence(write.key, revision)
        return self._write(write, updated=True).revision

    def is_due(self, key: str) -> bool:
        return False

    async def leases(self, prefix: str) -> Mapping[str, float]:
        await asyncio.sleep(0)
        now, below = self._clock.time(), f"{prefix}." if prefix else ""
        return {key: held.due - now for key, held in self._leases.items() if key.startswith(below)}

    def is_busy(self, within: float) -> bool:
        return False

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        return lambda: None  # nothing comes back here

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        await asyncio.sleep(0)
        if key not in self._entries:
            return
        if revision is not None:
            self._check_fence(key, revision)
        self._remove(key, RemovalReason.UNREGISTERED)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        await asyncio.sleep(0)
        answers: list[DiscoveryError | None] = []
        for lease in leases:
            try:
                self._check_fence(lease.key, lease.revision)
            except ConflictError as error:
                answers.append(error)
            else:
                self._set_lease(lease.key, lease.ttl, lease.owner)
                answers.append(None)
        return answers

    async def get(self, key: str) -> Entry | None:
        await asyncio.sleep(0)
        return self._entries.get(key)

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        reader = _MemoryReader(prefix, sink, self._readers.discard)
        reader.report(sink.begin)
        reader.report_put(list(self._entries.values()))
        reader.report(sink.end)
        self._readers.add(reader)
        return reader

    def _check_fence(self, key: str, revision: int) -> None:
        entry = self._entries.get(key)
        if entry is None or entry.revision != revision:
            raise ConflictError(f"{key} is no longer at revision {revision}")

    def _write(self, write: Write, *, updated: bool = False) -> Entry:
        key, value, leased = write.key, write.value, write.ttl is not None
        if len(value) > _MAX_VALUE_BYTES:
            raise PayloadTooLargeError(
                f"could not write {key} to bucket {self.name}: {len(value)} bytes, {_MAX_VALUE_BYTES} are "
                "allowed; make the value smaller"
            )
        self._revision += 1
        self._removed.pop(key, None)
        entry = Entry(
            key,
            value,
            self._revision,
            updated=updated,
            leased=leased,
            lease_ttl=write.ttl or None,
            owner=None if leased else write.owner or None,
            signature=write.signature,
        )
        self._entries[key] = entry
        for reader in self._readers:
            reader.report_put([entry])
        return entry

    def _remove(self, key: str, reason: RemovalReason) -> None:
        self._end_lease(key)
        del self._entries[key]
        self._removed[key] = reason
        if len(self._removed) > _REMOVALS_KEPT:
            del self._removed[next(iter(self._removed))]
        self._revision += 1
        for reader in self._readers:
            reader.report_delete(key, reason)

    def _set_lease(self, key: str, ttl: float | None, owner: str) -> None:
        self._end_lease(key)
        if ttl is None:
            return
        due = self._clock.time() + ttl
        timer = self._clock.call_at(due, lambda: self._remove(key, RemovalReason.EXPIRED))
        self._leases[key] = _HeldLease(owner, due, timer)

    def _end_lease(self, key: str) -> None:
        lease = self._leases.pop(key, None)
        if lease is not None:
            lease.timer.cancel()


@dataclass(frozen=True, slots=True)
class _HeldLease:
    owner: str
    due: float
    timer: Timer


class _MemoryReader:
    """Reports in a later turn of the loop, in order, as a network would."""

    def __init__(self, prefix: str, sink: Sink, forget: Callable[[_MemoryReader], None]) -> None:
        self._below = f"{prefix}." if prefix else ""
        self._sink = sink
        self._forget = forget
        self._reports: deque[Callable[[], None]] = deque()
        self._closed = False

    @property
    def age(self) -> float:
        return 0.0

    def report_put(self, entries: Sequence[Entry]) -> None:
        mine = [(entry.key, _reported(entry)) for entry in entries if entry.key.startswith(self._below)]
        if mine:
            self.report(lambda: self._sink.put(mine))

    def report_delete(self, key: str, reason: RemovalReason) -> None:
        if key.startswith(self._below):
            self.report(lambda: self._sink.delete(key, reason))

    def report(self, call: Callable[[], None]) -> None:
        if not self._reports:
            asyncio.get_running_loop().call_soon(self._flush)
        self._reports.append(call)

    def _flush(self) -> None:
        while self._reports and not self._closed:
            self._reports.popleft()()

    async def aclose(self) -> None:
        self._closed = True
        self._forget(self)


def _reported(entry: Entry) -> bytes:
    return entry.value if entry.signature is None else SignedValue(entry.value, entry.signature)
