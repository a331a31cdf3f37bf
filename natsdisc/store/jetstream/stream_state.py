"""The server and the streams, as tools show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .audit import seconds

__all__ = ["Server", "StreamState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server we are connected to."""

    name: str
    version: str
    url: str
    cluster: str | None
    jetstream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The stream behind a bucket. `leader` is None where a cluster has none at the moment."""

    bucket: str
    messages: int
    written: int  # messages, since it was made
    size: int  # bytes
    consumers: int
    replicas: int
    storage: str
    clustered: bool
    leader: str | None
    peers: tuple[str, ...]  # apart from the leader
    peers_behind: tuple[str, ...]  # offline, or not up to date
    leases: bool  # whether it can hold them
    ttls: bool
    fault: str | None  # why natsdisc cannot use it
    clock_offset: float  # seconds our wall clock is ahead of the server's
    clock_error: float

    @classmethod
    def of(cls, bucket: str, info: Mapping[str, Any], *, fault: str | None, wall: float, trip: float) -> Self:
        """Return the state that a STREAM.INFO tells, which was asked at `wall` and took `trip` seconds."""
        config, state, cluster = info["config"], info["state"], info.get("cluster") or {}
        replicas = cluster.get("replicas") or ()
        return cls(
            bucket=bucket,
            messages=int(state["messages"]),
            written=int(state["last_seq"]),
            size=int(state["bytes"]),
            consumers=int(state["consumer_count"]),
            replicas=int(config["num_replicas"]),
            storage=str(config["storage"]),
            clustered=bool(cluster.get("name")),
            leader=cluster.get("leader"),
            peers=tuple(str(peer["name"]) for peer in replicas),
            peers_behind=tuple(
                str(peer["name"]) for peer in replicas if peer.get("offline") or not peer.get("current")
            ),
            leases=bool(config.get("allow_msg_schedules")),
            ttls=bool(config.get("allow_msg_ttl")),
            fault=fault,
            # Older servers do not tell the time.
            clock_offset=wall + trip / 2 - seconds(info["ts"]) if "ts" in info else 0.0,
            clock_error=trip / 2,
        )
