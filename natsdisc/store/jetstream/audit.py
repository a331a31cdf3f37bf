"""Rules for an audit: which messages of a bucket no natsdisc registrar writes.

Pure. A user who may write one subject of a stream can write what looks like a
lease or a value at first sight. An audit names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from ... import entry
from ...errors import InvalidValueError
from ...model import Kind
from .messages import (
    EXPECTED_SEQUENCE,
    FORGED,
    LEASED,
    OPERATION,
    SCHEDULE,
    SCHEDULE_TARGET,
    SCHEDULER,
    UPDATED,
    removal,
)
from .stream_messages import StoredMessage

__all__ = [
    "Oddity",
    "Suspicion",
    "judge_lease",
    "judge_value",
    "lease_ttl",
    "seconds",
]

# Older entries say only that they were leased, and a ttl shorter than this is not worth a hurry (seconds).
_SHORTEST_TTL = 10.0
# A ttl beyond this (seconds, a year) is nonsense that somebody wrote.
_LONGEST_TTL = 366 * 86400.0
_SOURCE = "Nats-Schedule-Source"


class Suspicion(StrEnum):
    """The fault of a message."""

    SCHEDULE = "foreign schedule"
    NOT_A_LEASE = "not a lease"
    FORGED = "written by a foreign schedule"
    INVALID = "invalid"
    STRANGER = "not written by natsdisc"
    UNREADABLE = "unreadable name"


@dataclass(frozen=True, slots=True)
class Oddity:
    """A message that no natsdisc registrar writes."""

    suspicion: Suspicion
    bucket: str
    subject: str
    revision: int
    why: str


def judge_lease(message: StoredMessage, target: str) -> tuple[Suspicion, str] | None:
    """Return what is wrong with a message in the lease space that is not a lease on `target`; else None."""
    headers = message.headers
    schedule = headers.get(SCHEDULE)
    if schedule is None:
        return Suspicion.NOT_A_LEASE, "it schedules nothing"
    if headers.get(SCHEDULE_TARGET) != target:
        return Suspicion.SCHEDULE, f"it writes to {headers.get(SCHEDULE_TARGET)}, not to its own key"
    if not schedule.startswith("@at "):
        return Suspicion.SCHEDULE, f"it repeats: {schedule}"
    if headers.get(OPERATION) != "DEL" or message.data or _SOURCE in headers:
        return Suspicion.SCHEDULE, "it writes something else than a removal"
    if not message.whole:
        return Suspicion.SCHEDULE, "its header block has no end"
    return None


def judge_value(
    kind: Kind, key: str, message: StoredMessage, lease_subject: str
) -> tuple[Suspicion, str] | None:
    """Return what is wrong with the last message of `key` that no registrar can have written; else None."""
    headers = message.headers
    if SCHEDULE in headers:
        return Suspicion.SCHEDULE, f"it writes to {headers.get(SCHEDULE_TARGET)}, and lies among the values"
    removed = removal(headers, lease_subject)
    if removed is FORGED:
        return Suspicion.FORGED, f"the schedule {headers.get(SCHEDULER)} wrote it"
    if removed is not None:
        return None
    if not message.whole:
        return Suspicion.INVALID, "its header block has no end"
    try:
        entry.decode(kind, key, message.data)
    except InvalidValueError as error:
        if b'"type":"io.nats.jetstream.api.' in message.data:
            return Suspicion.INVALID, "it is an answer of JetStream, which somebody had sent here"
        return Suspicion.INVALID, str(error)
    if not headers.keys() & {LEASED, UPDATED, EXPECTED_SEQUENCE}:
        return Suspicion.STRANGER, "it has no header of a registrar: `nats kv put` or Dynamo write so"
    return None


def lease_ttl(headers: Mapping[str, str]) -> float | None:
    """Return how long (seconds) the lease of a value lasts; None for a value without lease.

    A ttl that is missing or too short to tell counts as ten seconds, one that makes no sense as infinite.
    """
    text = headers.get(LEASED)
    if text is None:
        return None
    try:
        ttl = float(text.removesuffix("s"))
    except ValueError:
        return _SHORTEST_TTL
    if not ttl <= _LONGEST_TTL:
        return math.inf
    return max(ttl, _SHORTEST_TTL)


def seconds(time_of_server: str) -> float:
    """Return a time in RFC 3339 as seconds since 1970."""
    moment = datetime.fromisoformat(time_of_server)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
