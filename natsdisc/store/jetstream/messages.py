"""The meaning of a bucket's messages: a value, a removal, or something that must not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...model import RemovalReason
from ...signing import SIGNATURE

__all__ = [
    "EXPECTED_SEQUENCE",
    "EXPECTED_SUBJECT",
    "FORGED",
    "LEASED",
    "OPERATION",
    "OWNER",
    "REASON",
    "SCHEDULE",
    "SCHEDULER",
    "SCHEDULE_NEXT",
    "SCHEDULE_TARGET",
    "SCHEDULE_TTL",
    "SIGNATURE",
    "TTL",
    "UPDATED",
    "Forged",
    "headers_that_matter",
    "known_headers",
    "parse_headers",
    "removal",
]

OPERATION = "KV-Operation"  # DEL or PURGE (ADR-8)
MARKER = "Nats-Marker-Reason"  # written by the server: MaxAge, Purge, Remove (ADR-43)
TTL = "Nats-TTL"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
SCHEDULE = "Nats-Schedule"  # the message scheduler (ADR-51)
SCHEDULE_TARGET = "Nats-Schedule-Target"
SCHEDULE_TTL = "Nats-Schedule-TTL"
SCHEDULE_NEXT = "Nats-Schedule-Next"
SCHEDULER = "Nats-Scheduler"
# Ours, on an unregistration: apart from it, that is the same message as an expired lease's.
REASON = "Natsdisc-Reason"
# Ours, on a lease, and on a value without a lease: its holder.
OWNER = "Natsdisc-Owner"
# Ours, on a value that was written under a lease: the ttl of the lease in seconds.
LEASED = "Natsdisc-Leased"
# Ours, on a value that `Bucket.replace` wrote: the holder of the lease goes on with it.
UPDATED = "Natsdisc-Updated"


_CRLF = b"\r\n"
_VERSION = b"NATS/1.0"
_STATUS_LINE = b"NATS/1.0 "
_SIGNED = f"\r\n{SIGNATURE}: ".encode()
_SCHEDULER = SCHEDULER.encode()
_STAMP = b"\r\n" + _SCHEDULER + b": "
# No subject has a line break: a stamp that cannot be told for sure is the one of no lease.
_AMBIGUOUS = "\n"


class Forged:
    """The sign of a message that its key's own lease did not write."""

    def __repr__(self) -> str:
        return "FORGED"


FORGED = Forged()


def removal(headers: Mapping[str, str], lease_subject: str) -> RemovalReason | Forged | None:
    """Return why a message with these headers (of `parse_headers`) removes its key; None for a value.

    The scheduler writes to any subject of the stream for everybody who may publish one lease, but it stamps
    each message that it writes. A stamped message counts only as the delete that the key's own lease,
    `lease_subject`, asks for.
    """
    operation = headers.get(OPERATION)
    scheduler = headers.get(SCHEDULER)
    if scheduler is not None:
        if scheduler != lease_subject or operation != "DEL":
            return FORGED
        if headers.get(REASON) == RemovalReason.UNREGISTERED:
            return RemovalReason.UNREGISTERED
        return RemovalReason.EXPIRED
    if operation in ("DEL", "PURGE"):
        return RemovalReason.UNREGISTERED
    marker = headers.get(MARKER)
    if marker is not None:
        return RemovalReason.EXPIRED if marker == "MaxAge" else RemovalReason.UNREGISTERED
    return None


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a message, and `Status` and `Description` of its first line (ADR-4).

    Any bytes can be parsed. Of a repeated header the first one counts, as it does for the server.
    `Nats-Scheduler` is there whenever the block holds the server's stamp anywhere, see `_stamp`.
    """
    first, *lines = block.split(_CRLF)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(_text(name), _text(value).strip(" \t"))
    version, _, status = first.partition(b" ")
    if version == _VERSION and status:
        headers["Status"], _, headers["Description"] = _text(status).partition(" ")
    if (stamp := _stamp(block)) is not None:
        headers[SCHEDULER] = stamp
    return headers


def headers_that_matter(block: bytes) -> dict[str, str] | None:
    """Return `parse_headers`, or None for the many messages without a header that a reader looks at."""
    if b"KV-" in block or b"Nats-Sch" in block or b"Nats-Mar" in block or block.startswith(_STATUS_LINE):
        return parse_headers(block)
    # Every signed value has a block of its own: most of its headers are of no interest.
    at = block.find(_SIGNED)
    if at < 0:
        return None
    start = at + len(_SIGNED)
    end = block.find(_CRLF, start)
    return {SIGNATURE: _text(block[start:] if end < 0 else block[start:end])}


def known_headers(headers: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return headers that nats-py has parsed as `parse_headers` would; use this where no block is at hand.

    nats-py drops lines that it cannot read, so a stamp may be lost. The server always writes
    `Nats-Schedule-Next` on a line of its own behind the stamp, which therefore counts as one too.
    """
    if not headers:
        return None
    # With fast-mail-parser 0.10, nats-py has a list of values for each name.
    known = {name: value if isinstance(value, str) else value[0] for name, value in headers.items()}
    mentions = [name for name, value in headers.items() if SCHEDULER in name or SCHEDULER in str(value)]
    if mentions not in ([], [SCHEDULER]) or (not mentions and SCHEDULE_NEXT in known):
        known[SCHEDULER] = _AMBIGUOUS
    return known


def _stamp(block: bytes) -> str | None:
    """Return the lease subject with which the server has stamped a message; None without a stamp.

    The server cuts the last two bytes off the block that a client wrote, whatever they are, and appends
    `Nats-Scheduler: <subject>`. So a client can have the stamp glued into a line, can write a stamp of its
    own in front of it, and can have a CR in its lease subject shown as the blank that would begin another
    stamp. Only one stamp on one whole line is believed. Any other mention names no lease.
    """
    mentions = block.count(_SCHEDULER)
    if not mentions:
        return None
    _, _, rest = block.partition(_STAMP)
    subject, end, _ = rest.partition(_CRLF)
    return _text(subject) if mentions == 1 and end else _AMBIGUOUS


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
