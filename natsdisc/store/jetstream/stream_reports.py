"""The log lines about the stream behind one bucket. A lasting one is told once in five minutes."""

from __future__ import annotations

import time
from typing import Any

from ... import log
from ...errors import DiscoveryError

__all__ = ["StreamReports"]

_log = log.logger(__name__)

_TELL_AGAIN_S = 300.0


class StreamReports:
    """Reports on the stream `name` of the bucket `bucket`."""

    def __init__(self, bucket: str, name: str) -> None:
        self._bucket = bucket
        self._name = name
        self._told: dict[object, float] = {}
        self._has_warned_of_memory = False

    def watches_wait(self, error: DiscoveryError) -> None:
        """Log the error that watches wait for somebody to put right."""
        if self._is_due(type(error)):
            _log.warning(
                "watches of the bucket %s wait until this is put right: %s",
                self._bucket,
                error,
                extra=log.fields("watches_wait", bucket=self._bucket, error=error),
            )

    def wrong_copy(self, node: str, extra: int, missing: int) -> None:
        """Log that the copy on `node` has `extra` entries too many, and lacks `missing`."""
        if self._is_due(("copy", node)):
            _log.warning(
                "the copy of %s on node %s has %d entries that its leader has not, and lacks %d; watches do "
                "not believe it; `natsdisc doctor` says how to mend it",
                self._name,
                node,
                extra,
                missing,
                extra=log.fields("wrong_copy", bucket=self._bucket, node=node, extra=extra, missing=missing),
            )

    def copy_mended(self, node: str, extra: int, removed: int, missing: int) -> None:
        """Log what a sweep has found wrong in the copy on `node`, and how to mend what it cannot."""
        remedy = f"; have it made anew: nats stream cluster peer-remove {self._name} {node}"
        _log.warning(
            "the copy of %s on node %s is wrong: %d entries too many (removed: %d), %d missing%s",
            self._name,
            node,
            extra,
            removed,
            missing,
            remedy if missing else "",
            extra=log.fields("wrong_copy", bucket=self._bucket, node=node, extra=extra, missing=missing),
        )

    def unleased_in_memory(self) -> None:
        """Warn, once, that a registration without a lease does not survive the loss of a bucket in memory."""
        if self._has_warned_of_memory:
            return
        self._has_warned_of_memory = True
        _log.warning(
            "the bucket %s is kept in memory: registrations without a lease are gone when its servers "
            'restart; use leases, or a bucket made with storage="file"',
            self._bucket,
            extra=log.fields("unleased_in_memory", bucket=self._bucket),
        )

    def made(self, config: dict[str, Any]) -> None:
        """Log that the bucket was made, and warn of a size limit that its account required."""
        _log.debug(
            "made the bucket %s: %s storage, %d replicas",
            self._bucket,
            config["storage"],
            config["num_replicas"],
            extra=log.fields(
                "bucket_made", bucket=self._bucket, storage=config["storage"], replicas=config["num_replicas"]
            ),
        )
        if config["max_bytes"] > 0:
            _log.warning(
                "the bucket %s holds at most %d bytes, because its account requires a limit; when it is "
                "full, the server removes the oldest registrations",
                self._bucket,
                config["max_bytes"],
                extra=log.fields("bucket_limited", bucket=self._bucket, max_bytes=config["max_bytes"]),
            )

    def consumer_limit(self, limit: int, error: DiscoveryError) -> None:
        """Warn that the stream has no consumer left, and that this user could not raise its limit."""
        _log.warning(
            "the bucket %s has no consumer left, and its limit cannot be raised (%s); "
            "set max_consumers of the stream %s to %d",
            self._bucket,
            error,
            self._name,
            limit,
            extra=log.fields("consumer_limit", bucket=self._bucket, error=error),
        )

    def _is_due(self, what: object) -> bool:
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) < _TELL_AGAIN_S:
            return False
        self._told[what] = now
        return True
