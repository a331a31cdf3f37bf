"""The plain records that buckets take and return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from ..errors import ConflictError

__all__ = [
    "RELEASED",
    "UNTRUSTED",
    "Entry",
    "EntryExistsError",
    "Found",
    "Lease",
    "Restored",
    "SignedValue",
    "Valid",
    "Write",
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

    @property
    def ttl(self) -> float | None:
        """Seconds that its lease lasts, 0 when that is unknown; None for a value without a lease."""
        return (self.lease_ttl or 0.0) if self.leased else None


# Tells whether a value may lie under a key at all; a value that may not is nobody's.
Valid: TypeAlias = Callable[[Entry], bool]


@dataclass(frozen=True, slots=True)
class Write:
    """A value to be written under `key`.

    It gets a lease of `ttl` seconds, or none with None; 0 stands for a lease of unknown length that is there
    already. `owner` tells its writer from others of the same key; it is empty where that is unknown. A value
    that is not `valid` is nobody's, and may be written over. A `signature` is kept beside the value.
    """

    key: str
    value: bytes
    ttl: float | None = None
    owner: str = ""
    valid: Valid | None = None
    signature: str | None = None

    def is_somebodys(self, entry: Entry) -> bool:
        """Return whether `entry` must not be written over just so."""
        return self.valid is None or self.valid(entry)


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
    """The lease that a heartbeat renews: `key` goes in `ttl` seconds, unless it was written after `revision`.

    `owner` tells this holder from others of the same key.
    """

    key: str
    revision: int
    ttl: float
    owner: str


# The owner of a lease that its process has left to the next one under the same id.
RELEASED = "released"


class EntryExistsError(ConflictError):
    """A create found another value.

    `entry` is what lies there, `released` tells whether its owner has left it to the next one.
    """

    def __init__(self, entry: Entry, *, released: bool = False) -> None:
        super().__init__(f"another value lies under {entry.key}")
        self.entry = entry
        self.released = released
