"""One bucket on a JetStream KV stream: fenced writes, and the leases the server holds for them.

A lease is a scheduled tombstone (ADR-51) on a subject of its own beside the key. Pushing its time away is a
heartbeat, fenced on the key's revision: it fails exactly when the registration is no longer the current one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from ...errors import ConflictError, DiscoveryError, PayloadTooLargeError, StoreUnavailableError
from ...lease import read_ttl, write_ttl
from ...model import RemovalReason
from .. import Entry, EntryExistsError, Found, Holder, Lease, Reader, Restored, Sink, Valid
from .api import (
    JETSTREAM_PATIENCE,
    FenceInFlightError,
    JetStreamApi,
    NoJetStreamError,
    PendingAck,
    WrongSequenceError,
)
from .hub import Hub
from .messages import (
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    LEASED,
    OPERATION,
    OWNER,
    REASON,
    SCHEDULE,
    SCHEDULE_NEXT,
    SCHEDULE_TARGET,
    SCHEDULE_TTL,
    SCHEDULER,
    SIGNATURE,
    TTL,
    UPDATED,
    Forged,
    removal,
)
from .reader import OrderedReader
from .requester import REQUEST_TIMEOUT
from .requests import Backoff
from .servertime import ServerTime
from .stream import Stream
from .stream_config import StreamOptions
from .sweeper import Sweeper

__all__ = ["JetStreamBucket"]

_T = TypeVar("_T")

# An answer that takes longer than this is sent for again: without a leader a publish is dropped in silence.
_TRY_TIMEOUT = 2.0
# A renewal is asked for again sooner: a new leader fires what is overdue at once. But where answers take
# their time, on a long way or from a busy server, asking again before they can be here would never end.
_RENEW_TIMEOUT, _LONGEST_RENEW_TIMEOUT = 0.5, 4.0
_TIMEOUT_BY_ANSWER = 4.0
# So many writes of a bucket are on their way at once; more would only time out in the server's queue.
_AT_ONCE = 256
# Headers of a value message count as payload; ours need less than this.
_HEADER_BYTES = 256
# A clock that drifts 100 ppm is off by 6 ms after a minute.
_CLOCK_AGE = 60.0
# Seconds after its time at which a lease that did not fire is dead. An election delays leases by about 5 s.
_OVERDUE = 5.0
_AT = "@at "


class JetStreamBucket:
    """The contract of `natsdisc.store.Bucket` on a stream."""

    def __init__(self, api: JetStreamApi, name: str, options: StreamOptions, clock: ServerTime) -> None:
        self._api = api
        self._clock = clock
        self._tombstone_seconds = math.ceil(options.tombstone_ttl)
        self._tombstone_ttl = f"{self._tombstone_seconds}s"
        self._stream = Stream(api, name, options, clock)
        self._sweeper = Sweeper(api, self._stream, self._tombstone_ttl)
        self._stream.on_new_leader = self._stream.on_wrong_copy = self._sweeper.sweep_soon
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._renew_timeout = _RENEW_TIMEOUT
        self._hub = Hub(self._open_reader, own_consumers=options.own_consumers)

    @property
    def name(self) -> str:
        return self._stream.bucket

    def is_due(self, key: str) -> bool:
        return False

    def forget(self) -> None:
        """The connection broke: look at the stream and the server's clock again before the next write."""
        self._stream.forget()
        self._stream.ask_info_again()
        self._hub.ask_again()
        self._sweeper.sweep_soon()

    async def ready(self, timeout: float) -> None:
        await self._api.requester.ready(timeout)

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
        self._check_size(key, value, signature)
        return await self._retried(
            lambda timeout: self._create(key, value, ttl, owner, valid, signature, timeout)
        )

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
        return await self._retried(
            lambda timeout: self._restore(key, value, ttl, owner, valid, signature, timeout)
        )

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
        self._check_size(key, value, signature)
        headers = {EXPECTED_SEQUENCE: str(revision), UPDATED: "1"}
        if leased:
            headers[LEASED] = write_ttl(lease_ttl or 0.0)
        elif owner is not None:
            headers[OWNER] = owner
        if signature is not None:
            headers[SIGNATURE] = signature
        return await self._retried(lambda timeout: self._replace(key, value, revision, headers, timeout))

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        await self._retried(lambda timeout: self._delete(key, revision, timeout, lease_ttl))

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        return self._sweeper.add(prefix, holder)

    async def aclose(self) -> None:
        """End what runs for this bucket."""
        await self._sweeper.aclose()

    async def get(self, key: str) -> Entry | None:
        _, entry = await self._retried(lambda timeout: self._last(key, timeout))
        return entry

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        return self._hub.watch(prefix, sink) if shared else self._open_reader(prefix, sink)

    def _open_reader(self, prefix: str, sink: Sink, *, granted: bool = False, patient: bool = True) -> Reader:
        tokens = f"{prefix}.>" if prefix else ">"
        return OrderedReader(
            self._api, self._stream, tokens, sink, self._api.gate, granted=granted, patient=patient
        )

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        return await self._renew(leases, self._renew_timeout)

    async def _renew(self, leases: Sequence[Lease], timeout: float) -> Sequence[DiscoveryError | None]:
        try:
            self._check_time()
            # After any silence the server answers a question first: a renewal that waits in a dead
            # connection's buffers would arrive with a time in the past, and kill what it should keep.
            await self._stream.ensure(
                leases=True, timeout=_LONGEST_RENEW_TIMEOUT, again_every=_RENEW_TIMEOUT, even_unsafe=True
            )
            acks = [await self._publish_lease(lease) for lease in leases]
        except Exception as error:
            return [_understood(error)] * len(leases)
        sent = time.monotonic()
        # The last question may have told that an answer takes longer: by half of that the clock is unsure.
        timeout = max(timeout, min(_TIMEOUT_BY_ANSWER * 2 * self._clock.error, _LONGEST_RENEW_TIMEOUT))
        answers: list[DiscoveryError | None] = []
        silence: DiscoveryError | None = None
        for ack in acks:
            try:
                await ack.sequence(max(0.0, sent + timeout - time.monotonic()))
                answers.append(None)
            except Exception as error:
                answer = _understood(error)
                if type(answer) is StoreUnavailableError:
                    # The first of them names the time that all had together.
                    silence = answer = silence or answer
                answers.append(answer)
        if any(isinstance(answer, WrongSequenceError) for answer in answers):
            # Usually somebody changed the key. But a lease that ended early looks the same, and so will the
            # next one if the server's clock was set: ask for its time before anything is written again.
            self._clock.doubt()
        if any(isinstance(answer, StoreUnavailableError) for answer in answers):
            self._stream.forget()
        self._note_answer(sent, timeout)
        return answers

    def _check_time(self) -> None:
        """Have the server asked for its time before the next write, if what is known of it may be wrong."""
        self._clock.check()
        if self._clock.age > _CLOCK_AGE:
            self._stream.forget()

    def _note_answer(self, sent: float, timeout: float) -> None:
        """Let the next renewal wait for as long as this answer makes likely, or longer if none came."""
        took = time.monotonic() - sent
        wanted = 2 * timeout if took >= timeout else _TIMEOUT_BY_ANSWER * took
        self._renew_timeout = min(max(wanted, _RENEW_TIMEOUT), _LONGEST_RENEW_TIMEOUT)

    async def _create(
        self,
        key: str,
        value: bytes,
        ttl: float | None,
        owner: str,
        valid: Valid | None,
        signature: str | None,
        timeout: float,
    ) -> int:
        self._check_time()
        await self._stream.ensure(leases=ttl is not None, timeout=timeout)
        await self._stream.check_room(len(value), timeout)
        if ttl is None:
            self._stream.warn_of_memory()
        expected = 0
        while True:
            try:
                return await self._write_under_lease(key, value, expected, ttl, owner, signature, timeout)
            except WrongSequenceError:
                expected, entry = await self._last(key, timeout)
            if entry is None:
                continue  # a tombstone: write over it
            if valid is not None and not valid(entry):
                continue  # nobody's: write over it
            if entry.value != value:
                raise EntryExistsError(entry)
            revision = await self._take_same(entry, ttl, owner, timeout)
            if revision is not None:
                return revision

    async def _take_same(self, entry: Entry, ttl: float | None, owner: str, timeout: float) -> int | None:
        """Go on with a value that is there: a first answer was lost, or the same process registers again.

        Return its revision, or None when it has to be looked at again.
        """
        if ttl is None and entry.leased:
            # Of a process that died: its lease would end ours.
            with suppress(ConflictError):
                await self._delete(entry.key, entry.revision, timeout)
            return None
        try:
            if ttl is not None:
                await self._renew_now(Lease(entry.key, entry.revision, ttl, owner))
        except WrongSequenceError:
            return None
        return entry.revision

    async def _restore(
        self,
        key: str,
        value: bytes,
        ttl: float | None,
        owner: str,
        valid: Valid | None,
        signature: str | None,
        timeout: float,
    ) -> Restored:
        self._check_size(key, value, signature)
        self._check_time()
        await self._stream.ensure(leases=ttl is not None, timeout=timeout)
        while True:
            expected, entry, removal_reason = await self._look(key, timeout)
            is_somebodys = entry is not None and (valid is None or valid(entry))
            if entry is not None and is_somebodys and entry.value == value:
                revision = await self._take_same(entry, ttl, owner, timeout)
                if revision is None:
                    continue
                same = Entry(key, value, revision, leased=ttl is not None, signature=entry.signature)
                return Restored(same, Found.SAME)
            if entry is None:
                found = _FOUND.get(removal_reason, Found.REMOVED) if expected else Found.MISSING
            else:
                found = Found.OVERWRITTEN
                if is_somebodys:
                    if await self._holder(entry, timeout) not in (None, owner):
                        raise EntryExistsError(entry)
                    if entry.updated:
                        found = Found.UPDATED
            with suppress(WrongSequenceError):
                if entry is None or found is not Found.UPDATED:
                    revision = await self._write_under_lease(
                        key, value, expected, ttl, owner, signature, timeout
                    )
                    written = Entry(key, value, revision, leased=ttl is not None, signature=signature)
                    return Restored(written, found)
                if ttl is not None:
                    await self._renew_now(Lease(key, entry.revision, ttl, owner))
                return Restored(entry, found)

    async def _write_under_lease(
        self,
        key: str,
        value: bytes,
        expected: int,
        ttl: float | None,
        owner: str,
        signature: str | None,
        timeout: float,
    ) -> int:
        """The lease, then the value, back to back: a crash between them leaves a tombstone for no key."""
        lease = await self._publish_lease(Lease(key, expected, ttl, owner)) if ttl is not None else None
        subject, fence = self._stream.subject_prefix + key, {EXPECTED_SEQUENCE: str(expected)}
        if ttl is not None:
            fence[LEASED] = write_ttl(ttl)
        else:
            fence[OWNER] = owner
        if signature is not None:
            fence[SIGNATURE] = signature
        written = await self._api.publish(subject, value, fence)
        if lease is None or ttl is None:
            return await written.sequence(timeout)
        try:
            revision = await written.sequence(timeout)
        except FenceInFlightError:
            # Replicas take one fenced message a key at a time, and the lease has not got there yet.
            await lease.sequence(timeout)
            return await (await self._api.publish(subject, value, fence)).sequence(timeout)
        try:
            await lease.sequence(timeout)
        except (StoreUnavailableError, WrongSequenceError):
            self._stream.forget()
            await self._renew_now(Lease(key, revision, ttl, owner))
        except DiscoveryError:
            # A value without the lease that was asked for would stay for ever.
            await self._delete(key, revision, timeout)
            raise
        return revision

    async def _replace(
        self, key: str, value: bytes, revision: int, headers: dict[str, str], timeout: float
    ) -> int:
        await self._stream.ensure(leases=False, timeout=timeout)
        written = await self._api.publish(self._stream.subject_prefix + key, value, headers)
        try:
            return await written.sequence(timeout)
        except WrongSequenceError:
            _, entry = await self._last(key, timeout)
            if entry is not None and entry.value == value and entry.signature == headers.get(SIGNATURE):
                return entry.revision  # the first answer was lost
            raise self._conflict(key, revision) from None

    async def _delete(
        self, key: str, revision: int | None, timeout: float, lease_ttl: float | None = None
    ) -> None:
        if not self._stream.known and not await self._stream.look():
            return
        while True:
            expected = revision
            if expected is None:
                _, entry = await self._last(key, timeout)
                if entry is None:
                    return
                expected, lease_ttl = entry.revision, entry.lease_ttl
            try:
                await (await self._publish_tombstone(key, expected, lease_ttl)).sequence(timeout)
            except WrongSequenceError:
                _, entry = await self._last(key, timeout)
                if entry is None:
                    return
                if revision is not None:
                    raise self._conflict(key, revision) from None
            else:
                return

    async def _renew_now(self, lease: Lease) -> None:
        [error] = await self._renew([lease], max(self._renew_timeout, _TRY_TIMEOUT))
        if error is not None:
            raise error

    async def _publish_lease(self, lease: Lease) -> PendingAck:
        target = self._stream.subject_prefix + lease.key
        headers = {
            SCHEDULE: f"@at {self._clock.after(lease.ttl)}",
            SCHEDULE_TARGET: target,
            SCHEDULE_TTL: self._tombstone_ttl,
            OPERATION: "DEL",
            OWNER: lease.owner,
            EXPECTED_SEQUENCE: str(lease.revision),
            EXPECTED_SUBJECT: target,
        }
        return await self._api.publish(self._stream.lease_prefix + lease.key, b"", headers)

    async def _publish_tombstone(self, key: str, expected: int, lease_ttl: float | None) -> PendingAck:
        if not self._stream.known:  # a renewal may have found a reason to look again meanwhile
            await self._stream.look()
        headers = {OPERATION: "DEL", EXPECTED_SEQUENCE: str(expected)}
        if self._stream.ttls:
            # A killed server may bring the lease back. With it comes no value while the tombstone is there,
            # so the tombstone stays until the lease's time is past.
            headers[TTL] = f"{max(self._tombstone_seconds, math.ceil(lease_ttl or 0.0))}s"
        if self._stream.leases:
            # Ends the lease in the same commit.
            headers[SCHEDULER] = self._stream.lease_prefix + key
            headers[SCHEDULE_NEXT] = "purge"
            headers[REASON] = RemovalReason.UNREGISTERED
        return await self._api.publish(self._stream.subject_prefix + key, b"", headers)

    async def _last(self, key: str, timeout: float) -> tuple[int, Entry | None]:
        """Return the sequence of the key's last message, 0 without one, and the entry if it is a value."""
        sequence, entry, _ = await self._look(key, timeout)
        return sequence, entry

    async def _look(
        self, key: str, timeout: float
    ) -> tuple[int, Entry | None, RemovalReason | Forged | None]:
        """Return what `_last` does, and the reason why the last message removed the key, if it did."""
        message = await self._stream.last_message(self._stream.subject_prefix + key, timeout)
        if message is None:
            return 0, None, None
        _, sequence, _, headers, value = message
        reason = removal(headers, self._stream.lease_prefix + key)
        if reason is not None:
            return sequence, None, reason
        leased = LEASED in headers
        return (
            sequence,
            Entry(
                key,
                value,
                sequence,
                UPDATED in headers,
                leased,
                read_ttl(headers.get(LEASED)),
                None if leased else headers.get(OWNER),
                headers.get(SIGNATURE),
            ),
            None,
        )

    async def _holder(self, entry: Entry, timeout: float) -> str | None:
        """Return the owner whose lease keeps `entry` alive, or who wrote it without a lease; None is nobody.

        A message on the lease's subject that is no lease of this key, or whose time is past, holds nothing.
        """
        message = await self._stream.last_message(self._stream.lease_prefix + entry.key, timeout)
        if message is not None:
            headers = message.headers
            schedule = headers.get(SCHEDULE, "")
            if (
                OWNER in headers
                and headers.get(SCHEDULE_TARGET) == self._stream.subject_prefix + entry.key
                and schedule.startswith(_AT)
            ):
                with suppress(ValueError):
                    if self._clock.until(schedule.removeprefix(_AT)) > -_OVERDUE:
                        return headers[OWNER]
        return entry.owner

    async def _retried(self, attempt: Callable[[float], Awaitable[_T]]) -> _T:
        """What `attempt(timeout)` answers, tried again while the store is unavailable."""
        started = time.monotonic()
        backoff = Backoff(first=0.05, longest=0.5)
        while True:
            try:
                await self._api.requester.ready(started + REQUEST_TIMEOUT - time.monotonic())
                async with self._slots:
                    return await attempt(_TRY_TIMEOUT)
            except Exception as failure:
                error = _understood(failure)
                if not isinstance(error, StoreUnavailableError):
                    raise error from failure.__cause__
                self._stream.forget()
                patience = JETSTREAM_PATIENCE if isinstance(error, NoJetStreamError) else REQUEST_TIMEOUT
                if not await backoff.pause(patience_left=started + patience - time.monotonic()):
                    raise error from error.__cause__

    def _conflict(self, key: str, revision: int) -> ConflictError:
        return ConflictError(f"{key} in bucket {self._stream.bucket} is no longer at revision {revision}")

    def _check_size(self, key: str, value: bytes, signature: str | None) -> None:
        most = self._api.requester.max_payload - _HEADER_BYTES - len(signature or "")
        if len(value) > most:
            raise PayloadTooLargeError(
                f"{key}: {len(value)} bytes, and the server takes {most} (its max_payload less our headers)"
            )


_FOUND: dict[RemovalReason | Forged | None, Found] = {
    RemovalReason.EXPIRED: Found.EXPIRED,
    RemovalReason.UNREGISTERED: Found.REMOVED,
}


def _understood(error: Exception) -> DiscoveryError:
    """Return `error`, or for one that is none of ours an error that can pass: a reply made no sense."""
    if isinstance(error, DiscoveryError):
        return error
    passing = StoreUnavailableError(
        f"could not make sense of the server's reply, which is asked for again: {error!r}"
    )
    passing.__cause__ = error
    return passing
