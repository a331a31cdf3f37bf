"""A store that signs what it writes and checks what it reads, on top of any other store.

It checks with the keys in `trusted`. An owner without `trusted` believes its own key alone: it must never
sign again what it has not verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..clock import Clock
from ..errors import ConflictError, DiscoveryError, InvalidValueError
from ..replay import check_end, is_older
from ..signing import Signature, Signer, Trust, UntrustedError
from . import Entry, Found, Holder, Lease, Reader, Restored, Sink, Store, Write
from .checked import CheckedReader, CheckedSink, Refused
from .slices import Slices

__all__ = ["SignedStore"]

# Seconds for which the signature of a leased registration is valid; it is made again after a third of that.
# Longer lets a replayed value of a dead owner live longer, shorter needs clocks that are closer together.
_VALIDITY = 3600.0
_PARTS = 3
# A lease that is renewed more rarely than that is signed for so many of its ttl.
_TTLS = 3


class _Own(NamedTuple):
    """The signature of a registration that was made here."""

    owner: str
    time: int
    again: int  # when to sign again, in milliseconds since 1970; 0 is never


class SignedStore:
    """`store` with signatures: of `signer` on what is written, of the keys in `trust` on what is read.

    `refused` is told of every value that is not believed. `wall` returns the time in seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        *,
        signer: Signer | None,
        trust: Trust | None,
        refused: Refused,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._signer = signer
        self._trust = trust
        self._refused = refused
        self._wall = wall
        self._slices = Slices()
        self._buckets: dict[str, SignedBucket] = {}

    @property
    def clock(self) -> Clock:
        return self._store.clock

    def bucket(self, name: str) -> SignedBucket:
        """The bucket `name`, with signatures."""
        if name not in self._buckets:
            self._buckets[name] = SignedBucket(
                self._store, name, self._signer, self._trust, self._refused, self._wall, self._slices
            )
        return self._buckets[name]

    async def ping(self, timeout: float) -> None:
        await self._store.ping(timeout)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._store.on_reconnect(callback)

    def attach(self) -> None:
        self._store.attach()

    async def detach(self) -> None:
        self._buckets.clear()
        await self._store.detach()

    def __getattr__(self, name: str) -> Any:
        # Stores can do more than the protocol says, and are asked for it by name.
        return getattr(self._store, name)


class SignedBucket:
    """One bucket of a SignedStore."""

    def __init__(
        self,
        store: Store,
        name: str,
        signer: Signer | None,
        trust: Trust | None,
        refused: Refused,
        wall: Callable[[], float],
        slices: Slices,
    ) -> None:
        self._bucket = store.bucket(name)
        self._clock = store.clock
        self._signer = signer
        self._trust = trust
        self._own_key = Trust({}, own=signer.public_key) if signer is not None else None
        self._refused = refused
        self._wall = wall
        self._slices = slices
        self._own: dict[str, _Own] = {}

    @property
    def name(self) -> str:
        return self._bucket.name

    async def ready(self, timeout: float) -> None:
        await self._bucket.ready(timeout)

    async def create(self, write: Write) -> int:
        signed, trust = self._sign(write), self._trust_at(write.key)

        def is_somebodys(entry: Entry) -> bool:
            if trust is not None:
                found = self._verified(trust, entry)
                if found is None or (entry.value == write.value and found.owner != write.owner):
                    return False
            return write.is_somebodys(entry)

        revision = await self._bucket.create(replace(write, valid=is_somebodys, signature=_text(signed)))
        self._note_own(write.key, signed)
        return revision

    async def restore(self, write: Write) -> Restored:
        own, trust = self._own.get(write.key), self._trust_at(write.key)
        signed = self._sign(write)

        def is_somebodys(entry: Entry) -> bool:
            if trust is not None:
                found, same = self._verified(trust, entry), entry.value == write.value
                if found is None or (same and found.owner != write.owner):
                    return False
                # A value that was signed before ours is a replay, and so is a different one that is as old.
                if own is not None and is_older(found, own.owner, own.time, own.time, or_as_old=not same):
                    return False
            return write.is_somebodys(entry)

        restored = await self._bucket.restore(replace(write, valid=is_somebodys, signature=_text(signed)))
        if trust is not None:
            lies_there = restored.found in (Found.SAME, Found.UPDATED)
            self._note_own(write.key, self._verified(trust, restored.entry) if lies_there else signed)
        return restored

    async def replace(self, write: Write, *, revision: int) -> int:
        own = self._own.get(write.key)
        if own is not None and own.owner == write.owner:
            signed = self._sign(write)
        else:
            own, signed = None, await self._signed_for_its_owner(write.key, write.value, revision)
        revision = await self._bucket.replace(replace(write, signature=_text(signed)), revision=revision)
        if own is not None:
            self._note_own(write.key, signed)
        return revision

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        await self._bucket.delete(key, revision=revision, lease_ttl=lease_ttl)
        self._own.pop(key, None)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        return await self._bucket.renew(leases)

    async def leases(self, prefix: str) -> Mapping[str, float]:
        return await self._bucket.leases(prefix)

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        return self._bucket.keep_swept(prefix, holder)

    async def get(self, key: str) -> Entry | None:
        entry, trust = await self._bucket.get(key), self._trust_at(key)
        if entry is None or trust is None or self._verified(trust, entry) is not None:
            return entry
        return replace(entry, trusted=False)

    def is_due(self, key: str) -> bool:
        own = self._own.get(key)
        return own is not None and own.again != 0 and own.again <= self._wall() * 1000

    def is_busy(self, within: float) -> bool:
        return self._bucket.is_busy(within)

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        if self._trust is None:
            return self._bucket.watch(prefix, sink, shared=shared)
        checked = CheckedSink(sink, self.name, self._trust, self._refused, self._wall, self._slices)
        return CheckedReader(self._bucket.watch(prefix, checked, shared=shared), checked, self._clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def _sign(self, write: Write) -> Signature | None:
        """Return the signature of a registration of our own; raises InvalidValueError for one in vain."""
        key, ttl = write.key, write.ttl
        self._check_signer(key)
        if self._signer is None:
            return None
        own = self._own.get(key)
        signed_at = self._signer.next_time(self._wall(), after=own.time if own is not None else 0)
        until = 0 if ttl is None else signed_at + int(max(_VALIDITY, _TTLS * ttl) * 1000)
        return self._signer.sign(self.name, key, write.value, owner=write.owner, time=signed_at, until=until)

    async def _signed_for_its_owner(self, key: str, value: bytes, revision: int) -> Signature | None:
        """Return the signature of an update of another process's registration.

        It continues the owner's: the clock of an operator does not matter, and no validity is prolonged.
        """
        self._check_signer(key)
        trust = self._trust_at(key)
        if self._signer is None or trust is None:
            return None
        entry = await self._bucket.get(key)
        found = self._verified(trust, entry) if entry is not None else None
        if entry is None or entry.revision != revision or found is None:
            raise ConflictError(
                f"cannot update {key} in bucket {self.name}: it was changed, or no trusted key signed it; "
                "look at what is registered now, and name its key in `trusted`"
            )
        return self._signer.sign(
            self.name, key, value, owner=found.owner, time=found.time + 1, until=found.until
        )

    def _check_signer(self, key: str) -> None:
        if self._trust is None or not self._trust.names(self.name, key):
            return
        if self._signer is None:
            raise InvalidValueError(
                f"cannot write {key} in bucket {self.name}: `trusted` names keys for its namespace, and "
                "without a `signer` every reader that trusts them ignores it"
            )
        if not self._trust.allows(self.name, key, self._signer.public_key):
            raise InvalidValueError(
                f"cannot write {key} in bucket {self.name}: {self._signer.public_key}, the key of `signer`, "
                "is not one that `trusted` names for its namespace"
            )

    def _trust_at(self, key: str) -> Trust | None:
        """Return the keys of values under `key` that may be adopted; None where signatures do not matter."""
        return self._trust if self._trust is not None and self._trust.names(self.name, key) else self._own_key

    def _verified(self, trust: Trust, entry: Entry) -> Signature | None:
        """Return the signature of an entry that may be adopted; None for an entry that is nobody's."""
        try:
            found = trust.verify(self.name, entry.key, entry.value, entry.signature)
            check_end(found, self._wall())
        except UntrustedError:
            return None
        return found

    def _note_own(self, key: str, signature: Signature | None) -> None:
        if signature is None:
            return
        valid = signature.until - signature.time
        again = signature.time + valid // _PARTS if signature.until else 0
        self._own[key] = _Own(signature.owner, signature.time, again)


def _text(signature: Signature | None) -> str | None:
    return str(signature) if signature is not None else None
