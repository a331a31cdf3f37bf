"""The leases of one bucket: scheduled tombstones (ADR-51), pushed away by heartbeats.

A lease lies on a subject of its own beside the key. A heartbeat is fenced on the key's revision: it fails
exactly when the registration is no longer the current one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from ...errors import DiscoveryError, StoreUnavailableError
from .. import Entry, Lease
from .api import JetStreamApi, PendingAck, WrongSequenceError
from .messages import (
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    OPERATION,
    OWNER,
    SCHEDULE,
    SCHEDULE_TARGET,
    SCHEDULE_TTL,
    TTL,
)
from .requests import TRY_TIMEOUT_S, understood
from .servertime import ServerTime
from .stream import Stream

__all__ = ["Leases"]

# A renewal is asked for again soon: a new leader fires what is overdue at once. But where answers take their
# time, on a long way or from a busy server, asking again before they can be here would never end (seconds).
_RENEW_TIMEOUT_S, _LONGEST_RENEW_TIMEOUT_S = 0.5, 4.0
_TIMEOUT_BY_ANSWER = 4.0
# A clock that drifts 100 ppm is off by 6 ms after a minute.
_CLOCK_AGE_S = 60.0
# Seconds after its time at which a lease that did not fire is dead. An election delays leases by about 5 s.
_OVERDUE_S = 5.0
_AT = "@at "
# Leases that are read at once; each is one question.
_READ_AT_ONCE = 50
_LEASE_ENDED_TTL = "1s"


class Leases:
    """The leases on `stream`; the tombstones that they write stay for `tombstone_ttl`, such as "300s"."""

    def __init__(self, api: JetStreamApi, stream: Stream, clock: ServerTime, tombstone_ttl: str) -> None:
        self._api = api
        self._stream = stream
        self._clock = clock
        self._tombstone_ttl = tombstone_ttl
        self._renew_timeout = _RENEW_TIMEOUT_S

    def check_time(self) -> None:
        """Have the server asked for its time before the next write, if what is known of it may be wrong."""
        self._clock.check()
        if self._clock.age > _CLOCK_AGE_S:
            self._stream.forget()

    async def publish(self, lease: Lease) -> PendingAck:
        """Send one lease, fenced on the revision of its key."""
        target = self._stream.subject_prefix + lease.key
        headers = {
            SCHEDULE: f"{_AT}{self._clock.after(lease.ttl)}",
            SCHEDULE_TARGET: target,
            SCHEDULE_TTL: self._tombstone_ttl,
            OPERATION: "DEL",
            OWNER: lease.owner,
            EXPECTED_SEQUENCE: str(lease.revision),
            EXPECTED_SUBJECT: target,
        }
        return await self._api.publish(self._stream.lease_prefix + lease.key, b"", headers)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        """Push the end of every lease away; return None, or the reason why not, for each."""
        return await self._renew(leases, self._renew_timeout)

    async def renew_now(self, lease: Lease) -> None:
        """Renew one lease as a part of a write, which has more time. Raises what `renew` returns."""
        [error] = await self._renew([lease], max(self._renew_timeout, TRY_TIMEOUT_S))
        if error is not None:
            raise error

    async def end(self, key: str, revision: int, timeout: float) -> None:
        """End the lease of `key`, whose value is at `revision`, and leave the value.

        Raises WrongSequenceError when the key has another revision.
        """
        target = self._stream.subject_prefix + key
        # A newer message takes the place of the schedule, and expires.
        headers = {EXPECTED_SEQUENCE: str(revision), EXPECTED_SUBJECT: target, TTL: _LEASE_ENDED_TTL}
        await (await self._api.publish(self._stream.lease_prefix + key, b"", headers)).sequence(timeout)

    async def holder(self, entry: Entry, timeout: float) -> str | None:
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
                    if self._clock.until(schedule.removeprefix(_AT)) > -_OVERDUE_S:
                        return headers[OWNER]
        return entry.owner

    async def left(self, prefix: str, timeout: float) -> dict[str, float]:
        """Return the seconds that the lease of each key below the tokens of `prefix` has left."""
        self.check_time()
        if not self._stream.known and not await self._stream.look(timeout):
            return {}
        start = self._stream.lease_prefix
        subjects = sorted(await self._stream.subjects(f"{start}{prefix}.>" if prefix else f"{start}>"))
        left: dict[str, float] = {}
        for at in range(0, len(subjects), _READ_AT_ONCE):
            some = subjects[at : at + _READ_AT_ONCE]
            for message in await asyncio.gather(
                *(self._stream.last_message(subject, timeout) for subject in some)
            ):
                schedule = message.headers.get(SCHEDULE, "") if message is not None else ""
                if message is None or not schedule.startswith(_AT):
                    continue
                with suppress(ValueError):
                    left[message.subject[len(start) :]] = self._clock.until(schedule.removeprefix(_AT))
        return left

    async def _renew(self, leases: Sequence[Lease], timeout: float) -> Sequence[DiscoveryError | None]:
        try:
            self.check_time()
            # After any silence the server answers a question first: a renewal that waits in a dead
            # connection's buffers would arrive with a time in the past, and kill what it should keep.
            await self._stream.ensure(
                leases=True, timeout=_LONGEST_RENEW_TIMEOUT_S, again_every=_RENEW_TIMEOUT_S, even_unsafe=True
            )
            acks = [await self.publish(lease) for lease in leases]
        except Exception as error:
            return [understood(error)] * len(leases)
        sent = time.monotonic()
        # The last question may have told that an answer takes longer: by half of that the clock is unsure.
        timeout = max(timeout, min(_TIMEOUT_BY_ANSWER * 2 * self._clock.error, _LONGEST_RENEW_TIMEOUT_S))
        answers = await _answers(acks, sent + timeout)
        if any(isinstance(answer, WrongSequenceError) for answer in answers):
            # Usually somebody changed the key. But a lease that ended early looks the same, and so will the
            # next one if the server's clock was set: ask for its time before anything is written again.
            self._clock.doubt()
        if any(isinstance(answer, StoreUnavailableError) for answer in answers):
            self._stream.forget()
        self._note_answer(sent, timeout)
        return answers

    def _note_answer(self, sent: float, timeout: float) -> None:
        """Let the next renewal wait for as long as this answer makes likely, or longer if none came."""
        took = time.monotonic() - sent
        wanted = 2 * timeout if took >= timeout else _TIMEOUT_BY_ANSWER * took
        self._renew_timeout = min(max(wanted, _RENEW_TIMEOUT_S), _LONGEST_RENEW_TIMEOUT_S)


async def _answers(acks: Sequence[PendingAck], deadline: float) -> list[DiscoveryError | None]:
    """Return None for each message that is stored by the `deadline` (time.monotonic()), else the reason."""
    answers: list[DiscoveryError | None] = []
    silence: DiscoveryError | None = None
    for ack in acks:
        try:
            await ack.sequence(max(0.0, deadline - time.monotonic()))
            answers.append(None)
        except Exception as error:
            answer = understood(error)
            if type(answer) is StoreUnavailableError:
                # The first of them names the time that all had together.
                silence = answer = silence or answer
            answers.append(answer)
    return answers
