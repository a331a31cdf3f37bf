"""The stream behind a bucket: its names, its configuration, and whether it can carry leases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...errors import StoreUnavailableError, UnsupportedServerError
from .api import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, ApiError, BusyError, JetStreamApi
from .requester import REQUEST_TIMEOUT
from .servertime import ServerTime
from .stream_config import (
    NewStream,
    Storage,
    StreamOptions,
    check_version,
    data_loss,
    extended,
    not_a_bucket,
    version_of,
)
from .stream_fill import Fill
from .stream_messages import StreamMessages
from .stream_reports import StreamReports

__all__ = ["Stream"]

# A user who may not read the stream's configuration asks again after this, and after every reconnect: rights
# can be given later, and the server logs each refusal.
_INFO_DENIED_FOR_S = 300.0


class Stream(StreamMessages):
    """The stream behind one bucket: what is known of it, and questions to its leader."""

    def __init__(self, api: JetStreamApi, bucket: str, options: StreamOptions, clock: ServerTime) -> None:
        self.bucket = f"{options.bucket_prefix}_{bucket}" if options.bucket_prefix else bucket
        super().__init__(api, f"KV_{self.bucket}")
        self.reports = StreamReports(self.bucket, self.name)
        self.subject_prefix = f"$KV.{self.bucket}."
        self.lease_prefix = f"$NATSDISC.LEASE.{self.bucket}."
        self._options = options
        self.clock = clock
        self._config: dict[str, Any] | None = None
        self._fault: str | None = None  # why the stream cannot hold a registry
        self._looking = asyncio.Lock()
        self._asking: asyncio.Task[bool] | None = None
        self._cluster: dict[str, Any] = {}
        self._content: tuple[int, int] | None = None
        self._looked = 0.0
        self._fill = Fill(self.bucket)
        self._leader: str | None = None
        self.on_new_leader: Callable[[], None] = lambda: None
        self.on_wrong_copy: Callable[[], None] = lambda: None
        self._info_denied_until = float("-inf")
        # When it was last tried to raise the limit of consumers (`time.monotonic`).
        self.limit_lifted = float("-inf")
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
    def max_consumers(self) -> int:
        """How many consumers the stream, as it was last seen, may have; 0 or less if it names no number."""
        return int((self._config or {}).get("max_consumers", -1))

    async def reconfigure(self, **options: object) -> None:
        """Change options of the stream as it was last seen. Raises what `JetStreamApi.call` raises."""
        if self._config is not None:
            await self._api.call(f"STREAM.UPDATE.{self.name}", {**self._config, **options})

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
    def last_sequence(self) -> int:
        """The sequence of the stream's last message when it was last seen."""
        return self._content[0] if self._content is not None else 0

    @property
    def has_one_server(self) -> bool:
        """Whether the stream, as it was last seen, is on a server that belongs to no cluster."""
        return "name" not in self._cluster

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
        """Return the stream's leader and replicas (ADR-31), at most `max_age` seconds old."""
        if time.monotonic() - self._looked <= max_age:
            return self._cluster
        # One question for all that ask meanwhile: without a leader each would wait for its own timeout.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.look(timeout), name=f"natsdisc-look {self.name}")
            self._asking.add_done_callback(_retrieve)
        asking = self._asking
        await asyncio.wait((asking,))
        return self._cluster if asking.result() else {}

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

    async def check_room(self, size: int, timeout: float) -> None:
        """Raise StoreUnavailableError when a value of `size` bytes would fill a bucket that has a limit."""
        if self._fill.is_old:
            await self.look(timeout)
        self._fill.add(size)

    def note_wrong_copy(self, node: str, extra: int, missing: int) -> None:
        """Report that the copy on `node` differs from the leader's subjects, and have it mended."""
        self.on_wrong_copy()
        self.reports.wrong_copy(node, extra, missing)

    def warn_of_memory(self) -> None:
        """Warn that a registration without a lease does not survive the loss of a bucket in memory."""
        if self.storage == "memory":
            self.reports.unleased_in_memory()

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
            server=version_of(self._api.requester.server_version),
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
                self.reports.made(new.config)
                return

    async def _extend(self) -> None:
        assert self._config is not None
        check_version(self._api.requester.server_version)
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
        self._fill.note(config, int(info["state"].get("bytes", 0)))
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
