"""Read what each node's copy of a bucket delivers, as a plain KV client sees it.

A consumer reads the copy of the node that the server placed it on. A copy may be wrong on one node alone, and
the client cannot choose the node. So consumers are made until each node has had one.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nats
import nats.errors

__all__ = ["Copy", "read_copies"]

TRIES = 60  # three nodes of which one is never chosen in so many random draws: 1 in 10**10
CONSUMER_LIVES = 5_000_000_000  # ns, in case that it cannot be deleted
READ_TIMEOUT = 5.0
NO_RESPONDERS = "503"
REQUEST_LASTS = 2_000_000_000  # ns


@dataclass(frozen=True, slots=True)
class Copy:
    """The values that one node delivers, by subject, and how many messages it had to deliver."""

    values: Mapping[str, bytes]
    messages: int


async def read_copies(client: nats.NATS, stream: str, nodes: int) -> dict[str, Copy]:
    """Return the copy of each of `nodes` nodes by the node's name; on a single server the name is empty.

    Raises nats.errors.Error when the server does not answer or refuses, AssertionError when a node never had
    a consumer.
    """
    found: dict[str, Copy] = {}
    for _ in range(TRIES):
        name = secrets.token_hex(6)
        made = await _ask(
            client, f"CONSUMER.CREATE.{stream}.{name}.{_values_of(stream)}", _create(stream, name)
        )
        try:
            node = str(made.get("cluster", {}).get("leader", ""))
            if node not in found:
                found[node] = await _read(client, stream, name, int(made["num_pending"]))
        finally:
            await _ask(client, f"CONSUMER.DELETE.{stream}.{name}")
        if len(found) == nodes:
            return found
    raise AssertionError(f"no consumer of {stream} was placed on more than {sorted(found)} of {nodes} nodes")


def _values_of(stream: str) -> str:
    return f"$KV.{stream.removeprefix('KV_')}.>"


def _create(stream: str, name: str) -> dict[str, Any]:
    return {
        "stream_name": stream,
        "config": {
            "name": name,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": _values_of(stream),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": CONSUMER_LIVES,
        },
    }


async def _ask(client: nats.NATS, subject: str, question: object = None) -> dict[str, Any]:
    payload = b"" if question is None else json.dumps(question).encode()
    answer: dict[str, Any] = json.loads(
        (await client.request(f"$JS.API.{subject}", payload, timeout=READ_TIMEOUT)).data
    )
    if "error" in answer:
        raise nats.errors.Error(f"{subject}: {answer['error']}")
    return answer


async def _read(client: nats.NATS, stream: str, name: str, pending: int) -> Copy:
    values: dict[str, bytes] = {}
    messages = 0
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    try:
        question = json.dumps({"batch": pending, "expires": REQUEST_LASTS}).encode()
        next_ones = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        await client.publish(next_ones, question, reply=inbox)
        async with asyncio.timeout(READ_TIMEOUT):
            while messages < pending:
                message = await subscription.next_msg(timeout=READ_TIMEOUT)
                headers = message.headers or {}
                if message.subject == inbox and headers.get("Status") == NO_RESPONDERS:
                    await asyncio.sleep(0.01)  # our node has not heard of the consumer yet
                    await client.publish(next_ones, question, reply=inbox)
                    continue
                if message.subject == inbox and "Status" in headers:
                    break  # some of the messages expired before it was their turn
                messages += 1
                if headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers:
                    values.pop(message.subject, None)
                else:
                    values[message.subject] = message.data
            return Copy(values, messages)
    except TimeoutError as error:
        raise nats.errors.TimeoutError from error
    finally:
        await subscription.unsubscribe()
