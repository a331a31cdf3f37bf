"""The stream behind a bucket: its names, its configuration, and whether it can carry leases."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

from ... import log
from ...errors import (
    DiscoveryError,
    InvalidNameError,
    InvalidValueError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from .api import (
    MAXIMUM_CONSUMERS,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    BusyError,
    JetStreamApi,
)
from .link import REQUEST_TIMEOUT
from .servertime import ServerTime

__all__ = ["Stream", "StreamOptions"]

_log = logging.getLogger(__name__)

_PREFIX_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
# nats-server 2.15 allows a stream 1,000 consumers unless the stream names a number.
_MAX_CONSUMERS = 100_000
# A user who may not read the stream's configuration asks again after this, and after every reconnect: rights
# can be given later, and the server logs each refusal.
_INFO_DENIED_FOR_S = 300.0
_TELL_AGAIN_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How buckets are made, and named.

    Of the queries in one namespace so many as `own_consumers` have a consumer of their own, the others share.
    """

    replicas: int = 1
    storage: Literal["file", "memory"] = "file"
    bucket_prefix: str = ""
    tombstone_ttl: float = 300.0
    own_consumers: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.bucket_prefix, str) or not set(self.bucket_prefix) <= _PREFIX_CHARS:
            raise InvalidNameError(f"bucket_prefix may hold [-_a-zA-Z0-9] only: {self.bucket_prefix!r}")
        if self.replicas not in range(1, 6):
            raise InvalidValueError(f"replicas must be 1 to 5: {self.replicas!r}")
        if self.storage not in ("file", "memory"):
            raise InvalidValueError(f'storage must be "file" or "memory": {self.storage!r}')
        # The server takes TTLs in whole seconds, from one on (ADR-43).
        if not 1 <= self.tombstone_ttl < math.inf:
            raise InvalidValueError(f"tombstone_ttl must be 1 s or more, and end: {self.tombstone_ttl!r}")


class Stream:
    """What is known of the stream behind one bucket."""

    def __init__(self, api: JetStreamApi, bucket: str, options: StreamOptions, clock: ServerTime) -> None:
        self.bucket = f"{options.bucket_prefix}_{bucket}" if options.bucket_prefix else bucket
        self.name = f"KV_{self.bucket}"
        self.subject_prefix = f"$KV.{self.bucket}."
        self.lease_prefix = f"$NATSDISC.LEASE.{self.bucket}."
        self._api = api
        self._options = options
        self._clock = clock
        self._config: dict[str, Any] | None = None
        self._looking = asyncio.Lock()
        self._asking: asyncio.Task[bool] | None = None
        self._cluster: dict[str, Any] = {}
        self._content: tuple[int, int] | None = None
        self._looked = 0.0
        self._info_denied_until = float("-inf")
        self._told: dict[type[DiscoveryError], float] = {}
        self._consumers_asked = float("-inf")

    @property
    def info_denied(self) -> bool:
        """Whether this user was refused the stream's configuration, and should not ask again yet."""
        return time.monotonic() < self._info_denied_until

    def deny_info(self) -> None:
        """Note that the server has refused this user the stream's configuration."""
        self._info_denied_until = time.monotonic() + _INFO_DENIED_FOR_S

    def ask_info_again(self) -> None:
        """Forget a refusal: the connection is new, and so may be its rights."""
        self._info_denied_until = float("-inf")

    @property
    def known(self) -> bool:
        """Whether the stream was seen since the connection last broke."""
        return self._config is not None

    @property
    def leases(self) -> bool:
        """Whether the stream, as it was last seen, can hold leases (ADR-51)."""
        return (
            self._config is not None
            and bool(self._config.get("allow_msg_schedules"))
            and f"{self.lease_prefix}>" in (self._config.get("subjects") or ())
        )

    @property
    def ttls(self) -> bool:
        """Whether the stream, as it was last seen, takes per-message TTLs (ADR-43)."""
        return self._config is not None and bool(self._config.get("allow_msg_ttl"))

    def forget(self) -> None:
        """Look again before the next write: the stream may have been deleted or made anew."""
        self._config = None

    async def look(self, timeout: float = REQUEST_TIMEOUT, *, again_every: float | None = None) -> bool:
        """Read the stream's configuration and the server's time; False when there is no stream.

        With `again_every`, ask so often (seconds) until one of the questions is answered.
        """
        question = f"STREAM.INFO.{self.name}"
        sent = time.monotonic()
        try:
            if again_every is None:
                info = await self._api.call(question, timeout=timeout)
            else:
                sent, info = await self._api.ask_until_answered(question, every=again_every, timeout=timeout)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                self._config = None
                return False
            raise
        with self._api.understanding(question):
            self._take(info, sent)
        return True

    async def cluster(self, max_age: float, timeout: float) -> dict[str, Any]:
        """The stream's leader and replicas (ADR-31), as they were at most `max_age` seconds ago."""
        if time.monotonic() - self._looked <= max_age:
            return self._cluster
        # One asks, and all who came meanwhile have the answer, an error too: without a leader each would
        # otherwise wait for its own timeout, one after the other.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.look(timeout), name=f"natsdisc-look {self.name}")
            self._asking.add_done_callback(_retrieve)
        asking = self._asking
        await asyncio.wait((asking,))
        return self._cluster if asking.result() else {}

    async def count(self, filter: str, timeout: float) -> int:
        """Return how many subjects below `filter` have a message; 0 when there is no stream."""
        # An offset beyond the end leaves the subjects out of the answer, and the number in it.
        question = f"STREAM.INFO.{self.name}"
        body = {"subjects_filter": filter, "offset": 2**31}
        try:
            info = await self._api.call(question, body, timeout=timeout)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return 0
            raise
        with self._api.understanding(question):
            return int(info.get("total", 0))

    async def content(self) -> tuple[int, int] | None:
        """What tells one content from another: the last message's number, and how many there are.

        A purge changes only the second. None when there is no stream.
        """
        return self._content if await self.look() else None

    async def subjects(self, filter: str) -> set[str]:
        """The subjects below `filter` that have a message; none when there is no stream."""
        found: set[str] = set()
        while True:
            try:
                info = await self._api.call(
                    f"STREAM.INFO.{self.name}", {"subjects_filter": filter, "offset": len(found)}
                )
            except ApiError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    return set()
                raise
            with self._api.understanding(f"STREAM.INFO.{self.name}"):
                page = info["state"].get("subjects") or {}
                found.update(page)
                if not page or len(found) >= info.get("total", 0):  # the server sends 100,000 at a time
                    return found

    async def ensure(self, *, leases: bool, timeout: float, again_every: float | None = None) -> None:
        """Have a stream to write to: make it, or take what is there, extended for leases if need be.

        `again_every` is `look`'s. Raises UnsupportedServerError.
        """
        self._forget_unusable()
        if self._config is None or (leases and not self.leases):
            # One looks, and makes it; everybody who came at the same time goes on with that.
            async with self._looking:
                if self._config is None and not await self.look(timeout, again_every=again_every):
                    await self._create()
                if leases and not self.leases:
                    await self._extend()
        self.check()

    def tell_what_is_wrong(self, error: DiscoveryError) -> None:
        """Log what a watch waits for somebody to put right; the same kind of error once in five minutes."""
        now = time.monotonic()
        if now - self._told.get(type(error), float("-inf")) < _TELL_AGAIN_S:
            return
        self._told[type(error)] = now
        _log.warning(
            "watches of the bucket %s wait until this is put right: %s",
            self.bucket,
            error,
            extra=log.fields("watches_wait", bucket=self.bucket, error=error),
        )

    def _forget_unusable(self) -> None:
        """Forget a configuration that cannot be used, so that the next look finds it put right."""
        if self._config is None:
            return
        try:
            self.check()
        except UnsupportedServerError:
            self._config = None

    async def raise_consumer_limit(self) -> None:
        """Let the stream have more consumers, if nobody has set a number and this user may change that.

        Asked for once a connection and five minutes at most.
        """
        now = time.monotonic()
        if self.info_denied or now - self._consumers_asked < _INFO_DENIED_FOR_S:
            return
        self._consumers_asked = now
        try:
            if not await self.look() or self._config is None or self._config.get("max_consumers", -1) > 0:
                return
            config = {**self._config, "max_consumers": _MAX_CONSUMERS}
            await self._api.call(f"STREAM.UPDATE.{self.name}", config)
        except (PermissionDeniedError, StoreUnavailableError, ApiError) as error:
            _log.warning(
                "the bucket %s has no consumer left, and its limit cannot be raised (%s); "
                "set max_consumers of the stream %s to %d",
                self.bucket,
                error,
                self.name,
                _MAX_CONSUMERS,
                extra=log.fields("consumer_limit", bucket=self.bucket, error=error),
            )

    def check(self, *, only_read: bool = False) -> None:
        """Raise UnsupportedServerError unless what was last seen is a bucket that natsdisc can use.

        A mirror of a bucket has no subjects of its own: it can be read, and only that.
        """
        config = self._config
        if config is None:
            raise StoreUnavailableError(f"the bucket {self.bucket} went away while it was looked at")
        if config.get("mirror"):
            if not only_read:
                raise UnsupportedServerError(
                    f"the stream {self.name} is a mirror, which can only be read: register at its origin"
                )
        elif f"{self.subject_prefix}>" not in (config.get("subjects") or ()):
            raise UnsupportedServerError(
                f"the stream {self.name} is not a KV bucket: it does not hold {self.subject_prefix}>; "
                "rename it, or choose a bucket_prefix"
            )
        if config.get("max_msgs_per_subject") != 1:
            raise UnsupportedServerError(
                f"the bucket {self.bucket} keeps {config.get('max_msgs_per_subject')} values a key, not 1: "
                "an old value could come back when the newest expires; set its history to 1"
            )

    async def _create(self) -> None:
        config = {
            "name": self.name,
            "description": "natsdisc registry",
            "subjects": [f"{self.subject_prefix}>"],
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "discard": "old",  # schedules refuse "new" (error 10052)
            "num_replicas": self._options.replicas,
            "storage": self._options.storage,
            "max_consumers": _MAX_CONSUMERS,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
        }
        sent = time.monotonic()
        version = _version(self._api.link.server_version)
        if version >= (2, 11):
            config["allow_msg_ttl"] = True
        if version >= (2, 12):
            config["allow_msg_schedules"] = True
            config["subjects"] = [f"{self.subject_prefix}>", f"{self.lease_prefix}>"]
        try:
            try:
                info = await self._api.call(f"STREAM.CREATE.{self.name}", config)
            except BusyError as error:
                if error.err_code != MAXIMUM_CONSUMERS:
                    raise
                config["max_consumers"] = -1  # the account allows fewer
                info = await self._api.call(f"STREAM.CREATE.{self.name}", config)
            self._take(info, sent)
        except ApiError as error:
            # Somebody with other options was first: theirs is the bucket.
            if error.err_code == STREAM_NAME_IN_USE and await self.look():
                return
            raise UnsupportedServerError(f"cannot make the bucket {self.bucket}: {error}") from error

    async def _extend(self) -> None:
        assert self._config is not None
        version = self._api.link.server_version
        if _version(version) < (2, 12):
            raise UnsupportedServerError(
                f"leases need nats-server 2.12 or newer, this one is {version}; upgrade it, or use "
                "lease_ttl=None: an instance then stays until it is unregistered"
            )
        self.check()
        config = {
            **self._config,
            "subjects": sorted({*self._config["subjects"], f"{self.lease_prefix}>"}),
            "discard": "old",
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "allow_msg_schedules": True,
        }
        sent = time.monotonic()
        try:
            self._take(await self._api.call(f"STREAM.UPDATE.{self.name}", config), sent)
        except ApiError as error:
            raise UnsupportedServerError(
                f"the bucket {self.bucket} cannot be extended for leases: {error}; delete it, or use "
                "lease_ttl=None: an instance then stays until it is unregistered"
            ) from error

    def _take(self, info: dict[str, Any], sent: float) -> None:
        self._config = info["config"]
        self._cluster, self._looked = info.get("cluster") or {}, sent
        self._content = info["state"]["last_seq"], info["state"]["messages"]
        if "ts" in info:
            self._clock.observe(info["ts"], sent, time.monotonic())


def _retrieve(task: asyncio.Task[bool]) -> None:
    """Look at the task's error, so that asyncio does not report it when all who waited were cancelled."""
    if not task.cancelled():
        task.exception()


def _version(text: str) -> tuple[int, int]:
    major, minor, _ = text.split(".")
    return int(major), int(minor)
