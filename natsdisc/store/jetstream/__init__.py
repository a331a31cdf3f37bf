"""Registries on JetStream KV. Only the files of this folder know nats-py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from nats.aio.client import Client

from ...clock import Clock, LoopClock
from ...errors import ClosedError
from .api import JetStreamApi
from .bucket import JetStreamBucket
from .connection import close_connection, open_connection, require_tls
from .history import History
from .requester import Requester
from .servertime import ServerTime
from .stream_config import StreamOptions
from .subjects import Subjects

__all__ = ["JetStreamStore", "require_tls"]


class JetStreamStore:
    """Buckets on the NATS connection `nc`, which stays the caller's.

    `replicas` and `storage` are for buckets that do not exist yet; `bucket_prefix` keeps several registries
    apart in one account; the mark of a removal stays for `tombstone_ttl` seconds. `domain` is the JetStream
    domain that the buckets are in, and `api_prefix` the subject under which an account imports JetStream from
    another one, such as `hub.API`; at most one of them. Raises InvalidNameError, InvalidValueError.
    """

    def __init__(
        self,
        nc: Client,
        *,
        replicas: int | None = None,
        storage: Literal["file", "memory"] | None = None,
        bucket_prefix: str = "",
        tombstone_ttl: float = 300.0,
        domain: str | None = None,
        api_prefix: str | None = None,
    ) -> None:
        self._subjects = Subjects.of(domain, api_prefix)
        self._options = StreamOptions(
            replicas=replicas, storage=storage, bucket_prefix=bucket_prefix, tombstone_ttl=tombstone_ttl
        )
        self._nc = nc
        self._requester = Requester(nc)
        self._api = JetStreamApi(self._requester, self._subjects)
        self._clock = LoopClock()
        self._buckets: dict[str, JetStreamBucket] = {}
        self._owns_connection = False
        self._users = 0

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str] | None,
        nats_options: dict[str, Any],
        *,
        wait: float = 0.0,
        domain: str | None = None,
        api_prefix: str | None = None,
        **options: Any,
    ) -> JetStreamStore:
        """Return a store on a connection of its own; raises what `open_connection` does."""
        StreamOptions(**options)  # bad options are told before anything is opened
        Subjects.of(domain, api_prefix)
        connection = await open_connection(servers, nats_options, wait=wait)
        store = cls(connection.client, domain=domain, api_prefix=api_prefix, **options)
        connection.on_error = store._requester.note_error
        store._owns_connection = True
        return store

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the connection lives in; None while it was never made."""
        reading: asyncio.Task[None] | None = getattr(self._nc, "_reading_task", None)
        return reading.get_loop() if reading is not None else None

    def bucket(self, name: str) -> JetStreamBucket:
        """The bucket `name`, below the prefix."""
        if name not in self._buckets:
            server_time = ServerTime()
            bucket = JetStreamBucket(self._api, name, self._options, server_time)
            self._requester.on_reconnect(server_time.forget)
            self._requester.on_reconnect(bucket.forget)
            self._buckets[name] = bucket
        return self._buckets[name]

    def history(self, name: str) -> History:
        """Return the history of the bucket `name`, whether it has one or not."""
        return History(self._nc, self._api, self.bucket(name).name)

    async def ping(self, timeout: float) -> None:
        """Return when the server has answered; wait `timeout` seconds at most.

        Raises StoreUnavailableError, PermissionDeniedError, ClosedError.
        """
        await self._requester.ping(timeout)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is back after a break; the answer takes it back."""
        return self._requester.on_reconnect(callback)

    def on_close(self, callback: Callable[[ClosedError], None]) -> Callable[[], None]:
        """Call `callback` when nats-py has closed the connection for good; returns a function that ends this.

        nats-py closes a connection with its own defaults after two minutes without a server.
        """
        return self._requester.on_close(callback)

    @property
    def connection_counts(self) -> Counter[str]:
        """The counters of the connection, such as `breaks`, `reconnects` and `failed_attempts`."""
        return self._requester.counts

    def attach(self) -> None:
        """One more Discovery uses this store."""
        self._users += 1

    async def detach(self) -> None:
        """One Discovery less: the last one takes the subscriptions along, and a connection of our own."""
        self._users -= 1
        if self._users > 0:
            return
        # A Discovery that attaches while this waits begins anew.
        requester, self._requester = self._requester, Requester(self._nc)
        buckets, self._buckets = self._buckets, {}
        self._api = JetStreamApi(self._requester, self._subjects)
        for bucket in buckets.values():
            await bucket.aclose()
        await requester.close()
        if self._owns_connection:
            await close_connection(self._nc)
