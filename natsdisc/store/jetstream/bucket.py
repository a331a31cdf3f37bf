"""One bucket on a JetStream KV stream: attempts repeated while they can succeed, watches and sweeps."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from ...errors import DiscoveryError, PayloadTooLargeError
from .. import Entry, Holder, Lease, Reader, Restored, Sink, Write
from .api import JetStreamApi
from .attempts import Attempts
from .hub import Hub
from .leases import Leases
from .reader import OrderedReader
from .requests import TRY_TIMEOUT_S, Backoff, is_transient, patience_s, understood
from .servertime import ServerTime
from .stream import Stream
from .stream_config import StreamOptions
from .sweeper import Sweeper

__all__ = ["JetStreamBucket"]

_T = TypeVar("_T")

# At most this many writes of a bucket are on their way at once; more would time out in the queue.
_WRITES_AT_ONCE = 256
# Headers of a value message count as payload; ours need less than this.
_HEADER_BYTES = 256
# Seconds to wait between two attempts at one write.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


class JetStreamBucket:
    """The contract of `natsdisc.store.Bucket` on a stream."""

    def __init__(self, api: JetStreamApi, name: str, options: StreamOptions, clock: ServerTime) -> None:
        tombstone_s = math.ceil(options.tombstone_ttl)
        self._api = api
        self._stream = Stream(api, name, options, clock)
        self._leases = Leases(api, self._stream, clock, f"{tombstone_s}s")
        self._attempts = Attempts(api, self._stream, self._leases, tombstone_s)
        self._sweeper = Sweeper(api, self._stream, f"{tombstone_s}s")
        self._stream.on_new_leader = self._stream.on_wrong_copy = self._sweeper.sweep_soon
        self._slots = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._hub = Hub(self._open_reader, own_consumers=options.own_consumers)

    @property
    def name(self) -> str:
        return self._stream.bucket

    def is_due(self, key: str) -> bool:
        return False

    def is_busy(self, within: float) -> bool:
        return asyncio.get_running_loop().time() - self._api.gate.heard < within

    def forget(self) -> None:
        """Look at the stream and the server's clock again before the next write: the connection broke."""
        self._stream.forget()
        self._stream.ask_info_again()
        self._hub.ask_again()
        self._sweeper.sweep_soon()

    async def ready(self, timeout: float) -> None:
        await self._api.requester.ready(timeout)

    async def create(self, write: Write) -> int:
        await self._check_size(write)
        return await self._retried(lambda timeout: self._attempts.create(write, timeout))

    async def restore(self, write: Write) -> Restored:
        async def attempt(timeout: float) -> Restored:
            await self._check_size(write)  # here, since the server that comes back may take another size
            return await self._attempts.restore(write, timeout)

        return await self._retried(attempt)

    async def replace(self, write: Write, *, revision: int) -> int:
        await self._check_size(write)
        return await self._retried(lambda timeout: self._attempts.replace(write, revision, timeout))

    async def delete(self, key: str, *, revision: int | None, lease_ttl: float | None = None) -> None:
        await self._retried(lambda timeout: self._attempts.delete(key, revision, timeout, lease_ttl))

    async def get(self, key: str) -> Entry | None:
        _, entry = await self._retried(lambda timeout: self._attempts.last(key, timeout))
        return entry

    async def renew(self, leases: Sequence[Lease]) -> Sequence[DiscoveryError | None]:
        return await self._leases.renew(leases)

    async def leases(self, prefix: str) -> Mapping[str, float]:
        return await self._retried(lambda timeout: self._leases.left(prefix, timeout))

    def keep_swept(self, prefix: str, holder: Holder) -> Callable[[], None]:
        return self._sweeper.add(prefix, holder)

    async def aclose(self) -> None:
        """End what runs for this bucket."""
        await self._sweeper.aclose()

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        return self._hub.watch(prefix, sink) if shared else self._open_reader(prefix, sink)

    def _open_reader(self, prefix: str, sink: Sink, *, granted: bool = False, patient: bool = True) -> Reader:
        tokens = f"{prefix}.>" if prefix else ">"
        return OrderedReader(
            self._api, self._stream, tokens, sink, self._api.gate, granted=granted, patient=patient
        )

    async def _retried(self, attempt: Callable[[float], Awaitable[_T]]) -> _T:
        """Return what `attempt(timeout)` returns, tried again for a while after errors that can pass."""
        started = time.monotonic()
        backoff = Backoff(first=_FIRST_PAUSE_S, longest=_LONGEST_PAUSE_S)
        while True:
            try:
                await self._api.requester.ready(started + patience_s(None) - time.monotonic())
                async with self._slots:
                    return await attempt(TRY_TIMEOUT_S)
            except Exception as failure:
                error = understood(failure)
                if not is_transient(error):
                    raise error from failure.__cause__
                self._stream.forget()
                if not await backoff.pause(patience_left=started + patience_s(error) - time.monotonic()):
                    raise error from error.__cause__

    async def _check_size(self, write: Write) -> None:
        """Raise PayloadTooLargeError for what the server would refuse, if a look says that it still would."""
        size = len(write.value)
        others = _HEADER_BYTES + len(write.signature or "")
        most = self._api.requester.max_payload - others
        if size > most:
            await self._api.requester.look_at_limit()
            most = self._api.requester.max_payload - others
        if size > most:
            raise PayloadTooLargeError(
                f"could not write {write.key} to bucket {self.name}: {size} bytes, and the server takes "
                f"{most} (its max_payload less our headers); make the value smaller or raise the limit"
            )
