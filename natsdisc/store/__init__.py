"""What natsdisc needs of a place where registries live: buckets of keys and values, and watches over them.

A store knows nothing of instances. Keys are the dotted keys of `natsdisc.keys`, values are bytes, and a
revision is a number that grows with every write to a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from ..clock import Clock
from ..errors import ConflictError, DiscoveryError
from ..model import RemovalReason

__all__ = [
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
]


@dataclass(frozen=True, slots=True)
class Entry:
    """A live value and the revision that wrote it.

    `updated` if that was a `Bucket.replace`, `leased` if it was written under a lease, then of `lease_ttl`
    seconds (None when that is unknown). `owner` is the writer of a value without a lease, None otherwise.
    `signature` is the header of a signed value; a value is not `trusted` if a store that checks signatures
    does not believe it.
    """

    key: str
    value: bytes
    revision: int
    updated: bool = False
    leased: bool = False
    lease_ttl: float | None = None
    owner: str | None = None
    signature: str | None = None
    trusted: bool = True


# Tells whether a value may lie under a key at all; a value that may not is nobody's.
Valid: TypeAlias = Callable[[Entry], bool]


class SignedValue(bytes):
    """A value as a reader reports it to its sink, with the header that its writer signed."""

    signature: str

    def __new__(cls, value: bytes, signature: str) -> SignedValue:
        signed = super().__new__(cls, value)
        signed.signature = signature
        return signed


class _Untrusted(bytes):
    """The mark in place of a value that is not believed."""

    def __repr__(self) -> str:
        return "UNTRUSTED"


# Reported by a store that checks signatures, in place of a value. It decodes to no instance.
UNTRUSTED = _Untrusted()


class Found(StrEnum):
    """The reason why a holder's revision was no longer the current one."""

    SAME = "the value was there all the time"
    UPDATED = "another client updated it"
    OVERWRITTEN = "another client wrote something else in its place"
    EXPIRED = "it had expired"
    REMOVED = "another client removed it"
    MISSING = "it was not there any more"


@dataclass(frozen=True, slots=True)
class Restored:
    """The entry after a `Bucket.restore`, and the reason why it was necessary."""

    entry: Entry
    found: Found


@dataclass(frozen=True, slots=True)
class Lease:
    """What a heartbeat renews: `key` goes in `ttl` seconds, unless somebody wrote it after `revision`.

    `owner` tells this holder from others of the same key.
    """

    key: str
    revision: int
    ttl: float
    owner: str


class EntryExistsError(ConflictError):
    """A create found another value; `entry` is what lies there."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"another value lies under {entry.key}")
        self.entry = entry


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

    async def create(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | None,
        owner: str,
        valid: Valid | None = None,
        signature: str | None = None,
    ) -> int:
        """Write `value` where nothing is, under a lease of `ttl` seconds; return the new revision.

        The same value already there is success, and a value that is not `valid` is written over. A
        `signature` is kept beside the value.
        Raises EntryExistsError, PayloadTooLargeError.
        """

    async def restore(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | None,
        owner: str,
        valid: Valid | None = None,
        signature: str | None = None,
    ) -> Restored:
        """`create` for a holder that lost its revision; return the entry that is there afterwards.

        A valid value that `replace` wrote is left, and taken as the owner's. Every other value is written
        over, unless another owner holds it: under a lease that has not ended, or without a lease.
        Raises EntryExistsError for another owner's value, PayloadTooLargeError.
        """

    async def replace(
        self,
        key: str,
        value: bytes,
        *,
        revision: int,
        leased: bool,
        lease_ttl: float | None = None,
        owner: str | None = None,
        signature: str | None = None,
    ) -> int:
        """Write `value` over `revision`, which has a lease (of `lease_ttl` seconds) or not.

        Return the new revision. `owner` is the Entry's that is replaced. Raises ConflictError,
        PayloadTooLargeError.
        """

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        """Remove `key` and its lease, if `revision` (when given) wrote it. Raises ConflictError."""

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        """Push every lease's end away; for each None, or why not: ConflictError is a failed fence."""

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        """Remove what a server brings back below the tokens of `prefix`, or anywhere if that is allowed.

        Returns a function that ends that.
        """

    async def get(self, key: str) -> Entry | None:
        """The live entry of `key`."""

    def is_due(self, key: str) -> bool:
        """Return whether the value of `key` should be written again, to keep its signature valid."""

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

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is back after a break; the answer takes it back."""

    def attach(self) -> None:
        """One more Discovery uses this store."""

    async def detach(self) -> None:
        """One Discovery less: with the last one the store frees what it holds."""
