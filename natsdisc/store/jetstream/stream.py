"""The stream behind a bucket: its names, its configuration, and whether it can carry leases."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from ... import log
from ...errors import (
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from .api import (
    NO_MESSAGE_FOUND,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    BusyError,
    JetStreamApi,
)
from .messages import parse_headers
from .requester import REQUEST_TIMEOUT
from .servertime import ServerTime
from .stream_config import MAX_CONSUMERS, NewStream, Storage, StreamOptions, data_loss, extended, not_a_bucket

__all__ = ["StoredMessage", "Stream"]

_log = log.logger(__name__)

# How full a limited bucket may be, and for how long (seconds) that is known.
_FULL, _ROOM_SHARED_S = 0.9, 1.0
# What a registration takes besides its value: subjects, headers and its lease.
_OVERHEAD_BYTES = 700
# As an offset it asks for the number of subjects alone.
_BEYOND_THE_LAST = 2**31
# A user who may not read the stream's configuration asks again after this, and after every reconnect: rights
# can be given later, and the server logs each refusal.
_INFO_DENIED_FOR_S = 300.0
_TELL_AGAIN_S = 300.0


class StoredMessage(NamedTuple):
    """A message as the stream's leader has it."""

    subject: str
    sequence: int
    stored: datetime
    headers: dict[str, str]
    data: bytes


class Stream:
    """What is known of the stream behind one bucket."""

    def __init__(self, api: JetStreamApi, bucket: str, options: StreamOptions, clock: ServerTime) -> None:
        self.bucket = f"{options.bucket_prefix}_{bucket}" if options.bucket_prefix else bucket
        self.name = f"KV_{self.bucket}"
        self.subject_prefix = f"$KV.{self.bucket}."
        self.lease_prefix = f"$NATSDISC.LEASE.{self.bucket}."
        self._api = api
        self._options = options
        self.clock = clock
        self._config: dict[str, Any] | None = None
        self._fault: str | None = None  # why the stream cannot hold a registry
        self._looking = asyncio.Lock()
        self._asking: asyncio.Task[bool] | None = None
        self._cluster: dict[str, Any] = {}
        self._content: tuple[int, int] | None = None
        self._looked = 0.0
        self._bytes = 0
        # The last sequence when the stream was first seen after the last reason to sweep.
        self.known_from: int | None = None
        self._leader: str | None = None
        self._has_warned_of_memory = False
        self.on_new_leader: Callable[[], None] = lambda: None
        self.on_wrong_copy: Callable[[], None] = lambda: None
        self._info_denied_until = float("-inf")
        self._told: dict[type[DiscoveryError], float] = {}
        self._consumers_asked = float("-inf")
        self._wrong_copies: dict[str, float] = {}
        self._last_storage: Storage | None = None

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
    def storage(self) -> str:
        """Where the stream, as it was last seen, keeps its messages: `file` or `memory`."""
        return str((self._config or {}).get("storage", "file"))

    @property
    def is_replicated(self) -> bool:
        """Whether the stream, as it was last seen, has more than one copy."""
        return int((self._config or {}).get("num_replicas", 1)) > 1

    @property
    def messages(self) -> int:
        """How many messages the stream had when it was last seen."""
        return self._content[1] if self._content is not None else 0

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

    async def subjects(self, filter: str) -> set[str]:
        """Return the subjects below `filter` that have a message; none when there is no stream."""
        found, _ = await self.leader_subjects(filter)
        return found

    async def leader_subjects(self, filter: str) -> tuple[set[str], int]:
        """Return the subjects below `filter` that the leader has, and the last sequence that it knew then.

        A subject whose message is newer than that sequence may be missing.
        """
        found: set[str] = set()
        last: int | None = None
        while True:
            info = await self._subject_page(filter, len(found))
            if info is None:
                return set(), 0
            with self._api.understanding(f"STREAM.INFO.{self.name}"):
                page = info["state"].get("subjects") or {}
                found.update(page)
                last = int(info["state"]["last_seq"]) if last is None else last
                if not page or len(found) >= info.get("total", 0):  # the server sends 100,000 at a time
                    return found, last

    async def count(self, filter: str, timeout: float = REQUEST_TIMEOUT) -> int:
        """Return how many subjects below `filter` have a message; 0 when there is no stream."""
        info = await self._subject_page(filter, _BEYOND_THE_LAST, timeout)
        with self._api.understanding(f"STREAM.INFO.{self.name}"):
            return int(info.get("total", 0)) if info is not None else 0

    async def _subject_page(
        self, filter: str, offset: int, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any] | None:
        body = {"subjects_filter": filter, "offset": offset}
        try:
            return await self._api.call(f"STREAM.INFO.{self.name}", body, timeout=timeout)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def last_message(self, subject: str, timeout: float = REQUEST_TIMEOUT) -> StoredMessage | None:
        """Return the leader's last message of `subject`; None without one."""
        return await self._message({"last_by_subj": subject}, timeout)

    async def next_message(self, filter: str, sequence: int) -> StoredMessage | None:
        """Return the leader's first message at `sequence` or later whose subject `filter` matches."""
        return await self._message({"seq": sequence, "next_by_subj": filter}, REQUEST_TIMEOUT)

    async def _message(self, question: dict[str, Any], timeout: float) -> StoredMessage | None:
        try:
            answer = await self._api.call(f"STREAM.MSG.GET.{self.name}", question, timeout=timeout)
        except ApiError as error:
            if error.err_code in (NO_MESSAGE_FOUND, STREAM_NOT_FOUND):
                return None
            raise
        with self._api.understanding(f"STREAM.MSG.GET.{self.name}"):
            found = answer["message"]
            return StoredMessage(
                found["subject"],
                int(found["seq"]),
                datetime.fromisoformat(found["time"]),
                parse_headers(base64.b64decode(found.get("hdrs", ""))),
                base64.b64decode(found.get("data", "")),
            )

    async def ensure(
        self,
        *,
        leases: bool,
        timeout: float,
        again_every: float | None = None,
        even_unsafe: bool = False,
    ) -> None:
        """Have a stream to write to: make it, or take what is there, extended for leases if need be.

        `timeout` and `again_every` (seconds) are `look`'s. With `even_unsafe`, a bucket that can lose data is
        taken as it is: what is registered there already is worth renewing. Raises UnsupportedServerError.
        """
        is_doubtful = self._fault is not None and not even_unsafe  # it may have been put right meanwhile
        if self._config is None or (leases and not self.leases) or is_doubtful:
            # One task looks and makes it; all that came at the same time go on with that.
            async with self._looking:
                must_look = self._config is None or (self._fault is not None and not even_unsafe)
                if must_look and not await self.look(timeout, again_every=again_every):
                    await self._create(leases)
                if leases and not self.leases:
                    await self._extend()
        if not (even_unsafe and self._config is not None):
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

    def note_wrong_copy(self, node: str, extra: int, missing: int) -> None:
        """Log that the copy on `node` differs from the leader's subjects, and have it mended."""
        self.on_wrong_copy()
        now = time.monotonic()
        if now - self._wrong_copies.get(node, float("-inf")) < _TELL_AGAIN_S:
            return
        self._wrong_copies[node] = now
        _log.warning(
            "the copy of %s on node %s has %d entries that its leader has not, and lacks %d; watches do not "
            "believe it; `natsdisc doctor` says how to mend it",
            self.name,
            node,
            extra,
            missing,
            extra=log.fields("wrong_copy", bucket=self.bucket, node=node, extra=extra, missing=missing),
        )

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
            config = {**self._config, "max_consumers": MAX_CONSUMERS}
            await self._api.call(f"STREAM.UPDATE.{self.name}", config)
        except (PermissionDeniedError, StoreUnavailableError, ApiError) as error:
            _log.warning(
                "the bucket %s has no consumer left, and its limit cannot be raised (%s); "
                "set max_consumers of the stream %s to %d",
                self.bucket,
                error,
                self.name,
                MAX_CONSUMERS,
                extra=log.fields("consumer_limit", bucket=self.bucket, error=error),
            )

    def check(self, *, only_read: bool = False) -> None:
        """Raise UnsupportedServerError unless what was last seen is a bucket that natsdisc can use.

        A mirror of a bucket has no subjects of its own: it can be read, and only that.
        """
        if self._config is None:
            raise StoreUnavailableError(f"the bucket {self.bucket} went away while it was looked at")
        if self._config.get("mirror") and not only_read:
            raise UnsupportedServerError(
                f"the stream {self.name} is a mirror, which can only be read: register at its origin"
            )
        if self._fault is not None:
            raise UnsupportedServerError(
                f"the stream {self.name} cannot hold the bucket {self.bucket}: {self._fault}"
            )

    async def _create(self, leases: bool) -> None:
        new = NewStream(
            self.name,
            (f"{self.subject_prefix}>", f"{self.lease_prefix}>"),
            # A bucket that was lost is made again as it was.
            replace(self._options, storage=self._options.storage or self._last_storage),
            server=_version(self._api.requester.server_version),
            leases=leases,
        )
        while True:
            sent = time.monotonic()
            try:
                self._take(await self._api.call(f"STREAM.CREATE.{self.name}", new.config), sent)
            except (ApiError, BusyError) as error:
                # Somebody with other options was first: theirs is the bucket.
                if error.err_code == STREAM_NAME_IN_USE and await self.look():
                    return
                if new.adjust(error.err_code):
                    continue
                if isinstance(error, BusyError):
                    raise
                raise UnsupportedServerError(f"cannot make the bucket {self.bucket}: {error}") from error
            else:
                self._tell_limits(new.config)
                return

    async def check_room(self, size: int, timeout: float) -> None:
        """Raise StoreUnavailableError when a value of `size` bytes would fill a bucket that has a limit."""
        limit = int((self._config or {}).get("max_bytes") or -1)
        if limit <= 0:
            return
        if time.monotonic() - self._looked > _ROOM_SHARED_S:
            await self.look(timeout)
        self._bytes += size + _OVERHEAD_BYTES
        if self._bytes > _FULL * limit:
            raise StoreUnavailableError(
                f"the bucket {self.bucket} is nearly full ({self._bytes} of {limit} bytes) and takes nothing "
                "new: the server would remove the oldest registrations; raise its max_bytes"
            )

    def warn_of_memory(self) -> None:
        """Warn, once, that a registration without a lease does not survive the loss of a bucket in memory."""
        if self.storage == "memory" and not self._has_warned_of_memory:
            self._has_warned_of_memory = True
            _log.warning(
                "the bucket %s is kept in memory: registrations without a lease are gone when its servers "
                'restart; use leases, or a bucket made with storage="file"',
                self.bucket,
                extra=log.fields("unleased_in_memory", bucket=self.bucket),
            )

    def _tell_limits(self, config: dict[str, Any]) -> None:
        _log.debug(
            "made the bucket %s: %s storage, %d replicas",
            self.bucket,
            config["storage"],
            config["num_replicas"],
            extra=log.fields(
                "bucket_made", bucket=self.bucket, storage=config["storage"], replicas=config["num_replicas"]
            ),
        )
        if config["max_bytes"] > 0:
            _log.warning(
                "the bucket %s holds at most %d bytes, because its account requires a limit; when it is "
                "full, the server removes the oldest registrations",
                self.bucket,
                config["max_bytes"],
                extra=log.fields("bucket_limited", bucket=self.bucket, max_bytes=config["max_bytes"]),
            )

    async def _extend(self) -> None:
        assert self._config is not None
        version = self._api.requester.server_version
        if _version(version) < (2, 12):
            raise UnsupportedServerError(
                f"leases need nats-server 2.12 or newer, this one is {version}; upgrade it, or use "
                "lease_ttl=None: an instance then stays until it is unregistered"
            )
        self.check()
        config = extended(self._config, f"{self.lease_prefix}>")
        sent = time.monotonic()
        try:
            self._take(await self._api.call(f"STREAM.UPDATE.{self.name}", config), sent)
        except ApiError as error:
            raise UnsupportedServerError(
                f"the bucket {self.bucket} cannot be extended for leases: {error}; delete it, or use "
                "lease_ttl=None: an instance then stays until it is unregistered"
            ) from error

    def _take(self, info: dict[str, Any], sent: float) -> None:
        self._config = config = info["config"]
        self._last_storage = config.get("storage")
        values = f"{self.subject_prefix}>"
        self._fault = not_a_bucket(config, values) or data_loss(config, values)
        self._cluster, self._looked = info.get("cluster") or {}, sent
        self._content = info["state"]["last_seq"], info["state"]["messages"]
        self._bytes = int(info["state"].get("bytes", 0))
        if self.known_from is None:
            self.known_from = int(info["state"]["last_seq"])
        leader = self._cluster.get("leader")
        if leader and leader != self._leader:
            before, self._leader = self._leader, leader
            if before is not None:
                self.on_new_leader()
        if "ts" in info:
            self.clock.observe(info["ts"], sent, time.monotonic())


def _retrieve(task: asyncio.Task[bool]) -> None:
    """Look at the task's error, so that asyncio does not report it when all who waited were cancelled."""
    if not task.cancelled():
        task.exception()


def _version(text: str) -> tuple[int, int]:
    major, minor = [*re.findall(r"\d+", text), "0", "0"][:2]
    return int(major), int(minor)
