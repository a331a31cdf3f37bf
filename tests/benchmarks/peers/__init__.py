"""Whom natsdisc is compared with: where each is found, what it needs, and how durable it is."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from .base import Peer

_NATS_FILE = "file storage, no fsync for a write: the server syncs every 2 min (its default)"


@dataclass(frozen=True, slots=True)
class Entry:
    """How a peer is named and made."""

    name: str
    title: str
    module: str
    cls: str
    server: str
    use: str
    durability: str
    needs: str = ""

    @property
    def filler(self) -> str:
        """The peer that writes what this one reads: each reads what its own kind of writer leaves."""
        if self.server != "nats":
            return self.name
        return "ours" if self.module in ("ours", "floor") else "plain_kv"


ALL = {
    entry.name: entry
    for entry in (
        Entry(
            "ours",
            "natsdisc (connect)",
            "ours",
            "Ours",
            "nats",
            "`list_and_watch`, `list`, `register`; a lease for each registration",
            _NATS_FILE,
        ),
        Entry(
            "ours_nc",
            "natsdisc (own nc)",
            "ours",
            "OursOnTheirs",
            "nats",
            "the same on a nats-py connection that the user made",
            _NATS_FILE,
        ),
        Entry(
            "ours_apart",
            "natsdisc (none shared)",
            "ours",
            "OursApart",
            "nats",
            "a consumer for each of the watchers",
            _NATS_FILE,
        ),
        Entry(
            "floor",
            "raw socket",
            "floor",
            "Floor",
            "nats",
            "`last_per_subject` consumer, bytes counted",
            _NATS_FILE,
        ),
        Entry(
            "publish",
            "JetStream publish",
            "plain_kv",
            "Publish",
            "nats",
            "one acknowledged publish",
            _NATS_FILE,
        ),
        Entry("plain_kv", "nats-py KV", "plain_kv", "PlainKv", "nats", "`watchall`, `create`", _NATS_FILE),
        Entry(
            "plain_keys",
            "nats-py KV keys",
            "plain_kv",
            "PlainKeys",
            "nats",
            "`keys`, which reads no values",
            _NATS_FILE,
        ),
        Entry(
            "natsio",
            "natsio KV",
            "natsio_kv",
            "NatsioKv",
            "nats",
            "`watch`, `create`; on Python 3.13 or newer",
            _NATS_FILE,
            "natsio",
        ),
        Entry(
            "etcd",
            "etcd",
            "etcd",
            "Etcd",
            "etcd",
            "`get_prefix`, `watch_prefix`, `put`; a lease for the process (`server`: for each key)",
            "fsync of the log before each answer",
            "aetcd",
        ),
        Entry(
            "zookeeper",
            "ZooKeeper",
            "zookeeper",
            "ZooKeeper",
            "zookeeper",
            "`get_children` and pipelined `get`, ChildrenWatch, ephemeral `create` in one session",
            "fsync of the log before each answer (in groups)",
            "kazoo",
        ),
        Entry(
            "redis",
            "Redis hash",
            "redis_hash",
            "RedisHash",
            "redis",
            "`HGETALL`, `HSET` and `PUBLISH` in a pipeline; a field cannot expire",
            "AOF, fsync every second",
            "redis",
        ),
    )
}


def make(name: str, address: str, space: str, **options: Any) -> Peer:
    """A client of `name`; raises ImportError when what it needs is not installed."""
    entry = ALL[name]
    peer = getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.cls)
    made: Peer = peer(address, space, **options)
    return made
