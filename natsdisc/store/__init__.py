"""The contract of a place where registries live: buckets of keys and values, and watches over them.

A store knows nothing of instances. Keys are the dotted keys of `natsdisc.keys`, values are bytes, and a
revision is a number that grows with every write to a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from ..clock import Clock
from ..errors import DiscoveryError
from ..model import RemovalReason
from .records import (
    RELEASED,
    UNTRUSTED,
    Entry,
    EntryExistsError,
    Found,
    Lease,
    Restored,
    SignedValue,
    Valid,
    Write,
)

__all__ = [
    "RELEASED",
    "UNTRUSTED",
    "Bucket",
    "Entry",
    "EntryExistsError",
    "Found",
    "Holder",
    "Lease",
    "Reader",
    "Restored",
    "ResyncReason",
    "SignedValue",
    "Sink",
    "Store",
    "Valid",
    "Write",
]


class ResyncReason(StrEnum):
    """Why a reader takes a new snapshot."""

    GAP = "gap"  # messages are missing
    SILENCE = "silence"  # no sign of life from the server
    RECONNECT = "reconnect"  # the connection broke and is back
    CONSUMER = "consumer"  # the server ended the watch
    LEADER = "leader"  # what is read is cut off from the stream
    COPY = "copy"  # the node that is read has another content than the stream's leader
    CHECK = "check"  # a routine look found a difference
    UNAVAILABLE = "unavailable"  # the server could not be asked
    RESTART = "restart"  # the reader broke, or its task had ended, and begins again


class Sink(Protocol):
    """Where a reader reports what it sees. Every method is quick and never raises."""

    def recover(self) -> None:
        """The server was restarted or lost its data: for a while, what is absent may be coming back."""

    def begin(self) -> None:
        """A snapshot starts; a snapshot that was under way is void."""

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Each key holds the value beside it; a later entry of the same key is the one that counts."""

    def delete(self, key: str, reason: RemovalReason) -> None:
        """`key` was removed."""

    def keep(self, key: str) -> None:
        """The last message of `key` is forged: nothing is known but that it must not be believed."""

    def end(self) -> None:
        """The snapshot is complete: what it did not mention is not there."""

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        """The reader may have missed something, or cannot see at the moment; a snapshot will follow."""

    def fail(self, error: DiscoveryError) -> None:
        """The reader has ended: this cannot be repaired."""


class Reader(Protocol):
    """A running watch."""

    @property
    def age(self) -> float:
        """Seconds since the server last gave a sign that nothing was missed."""

    async def aclose(self) -> None:
        """End it and free what it holds on the server; the sink hears no more."""


class Holder(Protocol):
    """A user of a bucket whose entries must not be swept. Every method is quick and never raises."""

    def held(self) -> frozenset[str]:
        """Return this user's keys."""

    def note_swept(self, count: int) -> None:
        """Count entries that were removed because their owners are gone."""

    def note_wrong_copy(self) -> None:
        """Count a replica whose content differs from its leader's."""


class Bucket(Protocol):
    """One bucket. It is made by the first write; reading a bucket that is not there finds nothing.

    Every call raises StoreUnavailableError when no answer came in time, PermissionDeniedError,
    UnsupportedServerError, and ClosedError.
    """

    @property
    def name(self) -> str:
        """The full name of the bucket, with its prefix."""

    async def ready(self, timeout: float) -> None:
        """Wait until requests can be sent, for `timeout` seconds at most.

        Raises StoreUnavailableError when that took longer, PermissionDeniedError, and ClosedError at once.
        """

    async def create(self, write: Write) -> int:
        """Write a value where nothing is, with its lease; return the new revision.

        The same value already there is success, and a value that is not valid is written over.
        Raises EntryExistsError, PayloadTooLargeError.
        """

    async def restore(self, write: Write) -> Restored:
        """`create` for a holder that lost its revision; return the entry that is there afterwards.

        A valid value that `replace` wrote is left, and taken as the owner's. Every other value is written
        over, unless another owner holds it: under a lease that has not ended, or without a lease.
        Raises EntryExistsError for another owner's value, PayloadTooLargeError.
        """

    async def replace(self, write: Write, *, revision: int) -> int:
        """Write a value over `revision`, whose lease (or the want of one) stays; return the new revision.

        `write.ttl` and `write.owner` are those of the entry that is replaced.
        Raises ConflictError, PayloadTooLargeError.
        """

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        """Remove `key` and its lease, if `revision` (when given) wrote it. Raises ConflictError."""

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        """Push every lease's end away; for each None, or why not: ConflictError is a failed fence."""

    async def leases(self, prefix: str) -> Mapping[str, float]:
        """Return the seconds that the lease of each key below the tokens of `prefix` has left.

        A lease that is overdue has none, or less. Keys without a lease are left out.
        """

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        """Remove what a server brings back below the tokens of `prefix`, or anywhere if that is allowed.

        Returns a function that ends that.
        """

    async def get(self, key: str) -> Entry | None:
        """The live entry of `key`."""

    def is_due(self, key: str) -> bool:
        """Return whether the value of `key` should be written again, to keep its signature valid."""

    def is_busy(self, within: float) -> bool:
        """Return whether a large snapshot, which others wait behind, went on `within` so many seconds."""

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        """Report every key below the tokens of `prefix` to `sink`, beginning with a snapshot.

        A `shared` watch may be read together with others of this process, and so begin with a snapshot that
        was taken earlier and kept up to date since; one that is not asks the server now.
        """


class Store(Protocol):
    """Buckets that share a connection."""

    @property
    def clock(self) -> Clock:
        """The time in which this store's leases run."""

    def bucket(self, name: str) -> Bucket:
        """The bucket `name`, whether it exists or not."""

    async def ping(self, timeout: float) -> None:
        """Return when the server has answered; wait `timeout` seconds at most.

        Raises StoreUnavailableError, PermissionDeniedError, ClosedError.
        """

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is back after a break; the answer takes it back."""

    def attach(self) -> None:
        """One more Discovery uses this store."""

    async def detach(self) -> None:
        """One Discovery less: with the last one the store frees what it holds."""
