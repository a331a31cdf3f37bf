"""One bucket on a JetStream KV stream: fenced writes, and the leases the server holds for them.

A lease is a scheduled tombstone (ADR-51) on a subject of its own beside the key. Pushing its time away is a
heartbeat, fenced on the key's revision: it fails exactly when the registration is no longer the current one.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from ...errors import ConflictError, DiscoveryError, PayloadTooLargeError, StoreUnavailableError
from ...model import RemovalReason
from .. import Entry, EntryExistsError, Lease, Reader, Sink
from .api import (
    JETSTREAM_PATIENCE,
    NO_MESSAGE_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
    FenceInFlightError,
    JetStreamApi,
    NoJetStreamError,
    PendingAck,
    WrongSequenceError,
)
from .backoff import delays
from .link import REQUEST_TIMEOUT
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
    TTL,
    UPDATED,
    parse_headers,
    removal,
)
from .reader import OrderedReader
from .servertime import ServerTime
from .stream import Stream, StreamOptions

__all__ = ["JetStreamBucket"]

_T = TypeVar("_T")

# An answer that takes longer than this is sent for again: without a leader a publish is dropped in silence.
_TRY_TIMEOUT = 2.0
# A renewal is asked for again sooner: a new leader fires what is overdue at once. But where answers take
# their time, on a long way or from a busy server, asking again before they can be here would never end.
_RENEW_TIMEOUT, _LONGEST_RENEW_TIMEOUT = 0.5, 4.0
_TIMEOUT_BY_ANSWER = 4.0
# Seconds for each message of a bucket over which the sweeps of a fleet spread, and at most.
_SWEEP_SPREAD, _LONGEST_SWEEP_SPREAD = 0.002, 120.0
# Between two looks at a value without a lease.
_SECOND_LOOK = 1.0
# So many keys are looked at one by one in a sweep, others in the next.
_MOST_SUSPECTS = 1000
# So many writes of a bucket are on their way at once; more would only time out in the server's queue.
_AT_ONCE = 256
# Headers of a value message count as payload; ours need less than this.
_HEADER_BYTES = 256
# A clock that drifts 100 ppm is off by 6 ms after a minute.
_CLOCK_AGE = 60.0


class JetStreamBucket:
    """The contract of `natsdisc.store.Bucket` on a stream."""

    def __init__(self, api: JetStreamApi, name: str, options: StreamOptions, clock: ServerTime) -> None:
        self._api = api
        self._clock = clock
        self._tombstone_ttl = f"{math.ceil(options.tombstone_ttl)}s"
        self._stream = Stream(api, name, options, clock)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._renew_timeout = _RENEW_TIMEOUT

    def forget(self) -> None:
        """The connection broke: look at the stream and the server's clock again before the next write."""
        self._stream.forget()

    async def create(self, key: str, value: bytes, *, ttl: float | None, owner: str) -> int:
        self._check_size(key, value)
        return await self._retried(lambda timeout: self._create(key, value, ttl, owner, timeout))

    async def restore(self, key: str, value: bytes, *, ttl: float | None, owner: str) -> Entry:
        return await self._retried(lambda timeout: self._restore(key, value, ttl, owner, timeout))

    async def replace(self, key: str, value: bytes, *, revision: int, leased: bool) -> int:
        self._check_size(key, value)
        return await self._retried(lambda timeout: self._replace(key, value, revision, leased, timeout))

    async def delete(self, key: str, *, revision: int | None) -> None:
        await self._retried(lambda timeout: self._delete(key, revision, timeout))

    async def sweep(self, prefix: str) -> int:
        content = await self._stream.content()
        if content is None:
            return 0
        # Everybody sweeps after a break: of large registries not all should be asked for at once.
        await asyncio.sleep(random.uniform(0, min(content[1] * _SWEEP_SPREAD, _LONGEST_SWEEP_SPREAD)))  # noqa: S311
        suspects = await self._ghosts(await self._without_lease(prefix))
        if not suspects:
            return 0
        # A renewal on its way is not a reason to remove anybody, and the fence spares who is back.
        await asyncio.sleep(_SECOND_LOOK)
        ghosts = await self._ghosts([entry.key for entry in suspects])
        for ghost in ghosts:
            await self.delete(ghost.key, revision=ghost.revision)
        return len(ghosts)

    async def _without_lease(self, prefix: str) -> list[str]:
        """The keys below `prefix` beside which no lease lies."""
        values, leases = self._stream.subject_prefix, self._stream.lease_prefix
        keys = {subject[len(values) :] for subject in await self._stream.subjects(f"{values}{prefix}.>")}
        held = {subject[len(leases) :] for subject in await self._stream.subjects(f"{leases}{prefix}.>")}
        suspects = keys - held
        return random.sample(sorted(suspects), min(len(suspects), _MOST_SUSPECTS))

    async def _ghosts(self, keys: Sequence[str]) -> list[Entry]:
        """Those of `keys` whose value was written under a lease that is gone.

        A lease ends with its value. But a server that was killed reads values back that it had removed,
        once their tombstones are gone (nats-server#8505; measured up to 2.15.1), and nobody renews those.
        """
        ghosts = []
        for key in keys:
            _, entry = await self._last(key, _TRY_TIMEOUT)
            if entry is not None and entry.leased and await self._lease_owner(key, _TRY_TIMEOUT) is None:
                ghosts.append(entry)
        return ghosts

    async def get(self, key: str) -> Entry | None:
        _, entry = await self._retried(lambda timeout: self._last(key, timeout))
        return entry

    def watch(self, prefix: str, sink: Sink) -> Reader:
        return OrderedReader(self._api, self._stream, f"{prefix}.>" if prefix else ">", sink)

    def watchall(self, sink: Sink) -> Reader:
        return self.watch("", sink)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        return await self._renew(leases, self._renew_timeout)

    async def _renew(self, leases: Sequence[Lease], timeout: float) -> Sequence[DiscoveryError | None]:
        try:
            if self._clock.age > _CLOCK_AGE:
                self._stream.forget()
            # After any silence the server answers a question first: a renewal that waits in a dead
            # connection's buffers would arrive with a time in the past, and kill what it should keep.
            await self._stream.ensure(leases=True, timeout=_LONGEST_RENEW_TIMEOUT, again_every=_RENEW_TIMEOUT)
            acks = [await self._publish_lease(lease) for lease in leases]
        except DiscoveryError as error:
            return [error] * len(leases)
        sent = time.monotonic()
        # The last question may have told that an answer takes longer: by half of that the clock is unsure.
        timeout = max(timeout, min(_TIMEOUT_BY_ANSWER * 2 * self._clock.error, _LONGEST_RENEW_TIMEOUT))
        answers: list[DiscoveryError | None] = []
        for ack in acks:
            try:
                await ack.sequence(max(0.0, sent + timeout - time.monotonic()))
                answers.append(None)
            except DiscoveryError as error:
                if isinstance(error, StoreUnavailableError):
                    self._stream.forget()
                answers.append(error)
        self._note_answer(sent, timeout)
        return answers

    def _note_answer(self, sent: float, timeout: float) -> None:
        """Let the next renewal wait for as long as this answer makes likely, or longer if none came."""
        took = time.monotonic() - sent
        wanted = 2 * timeout if took >= timeout else _TIMEOUT_BY_ANSWER * took
        self._renew_timeout = min(max(wanted, _RENEW_TIMEOUT), _LONGEST_RENEW_TIMEOUT)

    async def _create(self, key: str, value: bytes, ttl: float | None, owner: str, timeout: float) -> int:
        await self._stream.ensure(leases=ttl is not None, timeout=timeout)
        expected = 0
        while True:
            try:
                return await self._write_under_lease(key, value, expected, ttl, owner, timeout)
            except WrongSequenceError:
                expected, entry = await self._last(key, timeout)
            if entry is None:
                continue  # a tombstone: write over it
            if entry.value != value:
                raise EntryExistsError(entry)
            if ttl is None and entry.leased:
                # Of somebody who died: its lease would end ours.
                await self._delete(key, entry.revision, timeout)
                continue
            # The first answer was lost, or the same process registers again.
            with suppress(WrongSequenceError):
                if ttl is not None:
                    await self._renew_now(Lease(key, entry.revision, ttl, owner))
                return entry.revision

    async def _restore(self, key: str, value: bytes, ttl: float | None, owner: str, timeout: float) -> Entry:
        while True:
            try:
                return Entry(key, value, await self._create(key, value, ttl, owner, timeout))
            except EntryExistsError as error:
                found = error.entry
                if await self._lease_owner(key, timeout) != owner:
                    raise
            with suppress(WrongSequenceError):
                if not found.updated:
                    revision = await self._write_under_lease(key, value, found.revision, ttl, owner, timeout)
                    return Entry(key, value, revision)
                if ttl is not None:
                    await self._renew_now(Lease(key, found.revision, ttl, owner))
                return found

    async def _write_under_lease(
        self, key: str, value: bytes, expected: int, ttl: float | None, owner: str, timeout: float
    ) -> int:
        """The lease, then the value, back to back: a crash between them leaves a tombstone for no key."""
        lease = await self._publish_lease(Lease(key, expected, ttl, owner)) if ttl is not None else None
        subject, fence = self._stream.subject_prefix + key, {EXPECTED_SEQUENCE: str(expected)}
        if lease is not None:
            fence[LEASED] = f"{ttl:g}"
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

    async def _replace(self, key: str, value: bytes, revision: int, leased: bool, timeout: float) -> int:
        await self._stream.ensure(leases=False, timeout=timeout)
        subject = self._stream.subject_prefix + key
        headers = {EXPECTED_SEQUENCE: str(revision), UPDATED: "1"}
        if leased:
            headers[LEASED] = "1"
        written = await self._api.publish(subject, value, headers)
        try:
            return await written.sequence(timeout)
        except WrongSequenceError:
            _, entry = await self._last(key, timeout)
            if entry is not None and entry.value == value:
                return entry.revision  # the first answer was lost
            raise self._conflict(key, revision) from None

    async def _delete(self, key: str, revision: int | None, timeout: float) -> None:
        if not self._stream.known and not await self._stream.look():
            return
        while True:
            expected = revision
            if expected is None:
                _, entry = await self._last(key, timeout)
                if entry is None:
                    return
                expected = entry.revision
            try:
                await (await self._publish_tombstone(key, expected)).sequence(timeout)
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

    async def _publish_tombstone(self, key: str, expected: int) -> PendingAck:
        headers = {OPERATION: "DEL", EXPECTED_SEQUENCE: str(expected)}
        if self._stream.ttls:
            headers[TTL] = self._tombstone_ttl
        if self._stream.leases:
            # Ends the lease in the same commit.
            headers[SCHEDULER] = self._stream.lease_prefix + key
            headers[SCHEDULE_NEXT] = "purge"
            headers[REASON] = RemovalReason.UNREGISTERED
        return await self._api.publish(self._stream.subject_prefix + key, b"", headers)

    async def _last(self, key: str, timeout: float) -> tuple[int, Entry | None]:
        """The sequence of the key's last message, 0 without one, and the entry if it is a value."""
        message = await self._last_message(self._stream.subject_prefix + key, timeout)
        if message is None:
            return 0, None
        sequence, headers, value = message
        if removal(headers, self._stream.lease_prefix + key) is not None:
            return sequence, None
        return sequence, Entry(key, value, sequence, UPDATED in headers, LEASED in headers)

    async def _lease_owner(self, key: str, timeout: float) -> str | None:
        """Who holds the lease of `key`."""
        message = await self._last_message(self._stream.lease_prefix + key, timeout)
        return message[1].get(OWNER) if message is not None else None

    async def _last_message(self, subject: str, timeout: float) -> tuple[int, dict[str, str], bytes] | None:
        """Sequence, headers and payload of the last message of a subject."""
        try:
            answer = await self._api.call(
                f"STREAM.MSG.GET.{self._stream.name}", {"last_by_subj": subject}, timeout=timeout
            )
        except ApiError as error:
            if error.err_code in (NO_MESSAGE_FOUND, STREAM_NOT_FOUND):
                return None
            raise
        message = answer["message"]
        headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
        return int(message["seq"]), headers, base64.b64decode(message.get("data", ""))

    async def _retried(self, attempt: Callable[[float], Awaitable[_T]]) -> _T:
        """What `attempt(timeout)` answers, tried again while the store is unavailable."""
        started = time.monotonic()
        pauses = delays(first=0.05, longest=0.5)
        while True:
            try:
                await self._api.link.ready(started + REQUEST_TIMEOUT - time.monotonic())
                async with self._slots:
                    return await attempt(_TRY_TIMEOUT)
            except StoreUnavailableError as error:
                self._stream.forget()
                patience = JETSTREAM_PATIENCE if isinstance(error, NoJetStreamError) else REQUEST_TIMEOUT
                pause = next(pauses)
                if time.monotonic() + pause > started + patience:
                    raise
                await asyncio.sleep(pause)

    def _conflict(self, key: str, revision: int) -> ConflictError:
        return ConflictError(f"{key} in bucket {self._stream.bucket} is no longer at revision {revision}")

    def _check_size(self, key: str, value: bytes) -> None:
        most = self._api.link.max_payload - _HEADER_BYTES
        if len(value) > most:
            raise PayloadTooLargeError(
                f"{key}: {len(value)} bytes, and the server takes {most} (its max_payload less our headers)"
            )
