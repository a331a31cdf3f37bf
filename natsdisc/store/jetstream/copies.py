"""Comparing the copies of a replicated stream: nats-server itself never does.

The server places the consumer of a watch on any node of the cluster, and it reads that node's copy. So the
copies can be told apart by making consumers until there was one on every node.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import StoreUnavailableError
from .api import JetStreamApi
from .parser import Message
from .stream import Stream

__all__ = ["Difference", "differences"]

# With three nodes each was met within 16 tries in 999 of 1,000 cases.
_TRIES = 24
_READ_TIMEOUT = 10.0
_NS = 1_000_000_000
_INACTIVE_THRESHOLD = 10.0
# A copy may be behind for a moment. Missing entries are believed after a second look.
_SECOND_LOOK = 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """The keys that the copy on `node` has and the leader has not, and those that it lacks."""

    node: str
    extra: frozenset[str]
    missing: frozenset[str]


async def differences(api: JetStreamApi, stream: Stream, prefix: str = "") -> list[Difference]:
    """Compare the values below the tokens of `prefix` in every copy in reach with the leader's.

    Raises StoreUnavailableError, PermissionDeniedError, ApiError.
    """
    nodes = _nodes(await stream.cluster(0.0, 2.0))
    if len(nodes) < 2:
        return []
    filter = f"{stream.subject_prefix}{prefix}.>" if prefix else f"{stream.subject_prefix}>"
    expected = await stream.count(filter)
    counts = await _counts(api, stream, filter, nodes)
    suspects = {node for node, count in counts.items() if count != expected}
    if not suspects:
        return []
    found = await _compare(api, stream, filter, suspects)
    if any(difference.missing for difference in found):
        await asyncio.sleep(_SECOND_LOOK)
        found = await _compare(api, stream, filter, {difference.node for difference in found})
    return found


async def _compare(api: JetStreamApi, stream: Stream, filter: str, nodes: Iterable[str]) -> list[Difference]:
    found, skip = [], len(stream.subject_prefix)
    for node in sorted(nodes):
        copy = await _read(api, stream, filter, node)
        if copy is None:
            continue
        # Asked afterwards: what is newer than the leader's answer is not judged by it.
        leader, last = await stream.leader_subjects(filter)
        extra = {subject for subject, sequence in copy.items() if subject not in leader and sequence <= last}
        extra = {subject for subject in extra if await stream.last_message(subject) is None}
        missing = leader - copy.keys()
        if extra or missing:
            found.append(
                Difference(
                    node,
                    frozenset(subject[skip:] for subject in extra),
                    frozenset(subject[skip:] for subject in missing),
                )
            )
    return found


def _nodes(cluster: dict[str, Any]) -> set[str]:
    """Return the names of the nodes that hold a copy and answer."""
    replicas = cluster.get("replicas") or ()
    nodes = {str(replica["name"]) for replica in replicas if not replica.get("offline")}
    return nodes | {str(cluster["leader"])} if cluster.get("leader") else nodes


async def _counts(api: JetStreamApi, stream: Stream, filter: str, nodes: set[str]) -> dict[str, int]:
    """Return how many subjects each node's copy has, as far as the nodes were met."""
    counts: dict[str, int] = {}
    for _ in range(_TRIES):
        if counts.keys() >= nodes:
            break
        name = secrets.token_hex(11)
        node, pending = await _create(api, stream, filter, name, inbox=None)
        counts[node] = pending
        await _delete(api, stream, name)
    return counts


async def _read(api: JetStreamApi, stream: Stream, filter: str, node: str) -> dict[str, int] | None:
    """Return the subjects of the copy on `node` with their sequences; None if `node` took no consumer."""
    for _ in range(_TRIES):
        name, inbox = secrets.token_hex(11), api.requester.new_inbox()
        reading = _Reading()
        subscription = await api.requester.subscribe(inbox, reading.receive)
        try:
            there, pending = await _create(api, stream, filter, name, inbox=inbox)
            if there == node:
                reading.expect(pending)
                async with asyncio.timeout(_READ_TIMEOUT):
                    await reading.done.wait()
                return reading.subjects
        except TimeoutError:
            raise StoreUnavailableError(
                f"reading the copy of {stream.name} on {node} took too long"
            ) from None
        finally:
            await subscription.aclose()
            await _delete(api, stream, name)
    return None


@dataclass(slots=True)
class _Reading:
    """The messages that arrive of a copy."""

    subjects: dict[str, int] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int | None = None

    def expect(self, messages: int) -> None:
        self.expected = messages
        self._look()

    def receive(self, messages: Sequence[Message]) -> None:
        for subject, reply, _, _ in messages:
            if reply.startswith("$JS.ACK."):
                tokens = reply.split(".")
                self.subjects[subject] = int(tokens[5] if len(tokens) == 9 else tokens[7])
        self._look()

    def _look(self) -> None:
        if self.expected is not None and len(self.subjects) >= self.expected:
            self.done.set()


async def _create(
    api: JetStreamApi, stream: Stream, filter: str, name: str, *, inbox: str | None
) -> tuple[str, int]:
    """Make a consumer; return on which node it lies, and how many messages it has to deliver."""
    config: dict[str, Any] = {
        "name": name,
        "deliver_policy": "last_per_subject",
        "ack_policy": "none",
        "filter_subject": filter,
        "headers_only": True,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(_INACTIVE_THRESHOLD * _NS),
    }
    if inbox is not None:
        config["deliver_subject"] = inbox
    made = await api.call(
        f"CONSUMER.CREATE.{stream.name}.{name}.{filter}", {"stream_name": stream.name, "config": config}
    )
    return str((made.get("cluster") or {}).get("leader", "")), int(made["num_pending"])


async def _delete(api: JetStreamApi, stream: Stream, name: str) -> None:
    await api.tell(f"CONSUMER.DELETE.{stream.name}.{name}")
