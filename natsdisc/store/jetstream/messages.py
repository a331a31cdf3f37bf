"""What the messages of a bucket say: a value, a removal, or something that must not be believed."""

from __future__ import annotations

from collections.abc import Mapping

from ...model import RemovalReason

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
    "TTL",
    "UPDATED",
    "Forged",
    "headers_that_matter",
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
# Ours, on a value that `Bucket.replace` wrote: whoever holds the lease goes on with it.
UPDATED = "Natsdisc-Updated"


class Forged:
    """The answer for a message that its key's own lease did not write."""

    def __repr__(self) -> str:
        return "FORGED"


FORGED = Forged()


def removal(headers: Mapping[str, str], lease_subject: str) -> RemovalReason | Forged | None:
    """Why a message with these headers removes its key; None when it is a value.

    The scheduler writes to any subject of the stream for whoever may publish one lease, but it stamps what
    it writes: a stamped message counts only as the delete that the key's own lease asks for.
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
    """The headers of a message, with the `Status` and `Description` of its first line (ADR-4)."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name: value.strip() for name, _, value in pairs}
    _, _, status = first.partition(" ")
    if status:
        headers["Status"], _, headers["Description"] = status.partition(" ")
    return headers


def headers_that_matter(block: bytes) -> dict[str, str] | None:
    """`parse_headers`, or None for the many messages whose headers `removal` does not look at."""
    if b"KV-" in block or b"Nats-Sch" in block or b"Nats-Mar" in block or block.startswith(b"NATS/1.0 "):
        return parse_headers(block)
    return None
