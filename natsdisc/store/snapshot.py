"""One look at a bucket: what a watch reports until it is complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ..errors import (
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from ..model import RemovalReason
from . import Bucket, ResyncReason

__all__ = ["read"]

# Seconds for which a look lasts at most, however much progress there is.
_LONGEST_S = 600.0


async def read(bucket: Bucket, prefix: str, what: object, *, timeout: float) -> dict[str, bytes]:
    """Return every live value below the tokens of `prefix`, by its key; `what` is its name in errors.

    `timeout` bounds the time without progress, in seconds. A large snapshot that is read before this one on
    the same connection is progress too, for ten minutes at most. Raises StoreUnavailableError after that, and
    what ends a watch.
    """
    snapshot = _Snapshot()
    reader = bucket.watch(prefix, snapshot, shared=False)
    try:
        most, ends = -1, time.monotonic() + _LONGEST_S
        # A million entries take longer than an answer may; a look that has to begin again gets no further.
        while not snapshot.done.done() and time.monotonic() < ends:
            if len(snapshot.values) <= most and not bucket.is_busy(timeout):
                break
            most = max(most, len(snapshot.values))
            await asyncio.wait((snapshot.done,), timeout=timeout)
        if not snapshot.done.done():
            raise StoreUnavailableError(
                f"could not read {what}: nothing more within {timeout:g} s, {snapshot.trouble or 'no answer'}"
            ) from snapshot.trouble
        snapshot.done.result()
    finally:
        snapshot.done.cancel()
        await reader.aclose()
    return snapshot.values


class _Snapshot:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trouble: DiscoveryError | None = None

    def recover(self) -> None:
        pass

    def begin(self) -> None:
        self.values.clear()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self.values.update(entries)

    def delete(self, key: str, reason: RemovalReason) -> None:
        self.values.pop(key, None)

    def keep(self, key: str) -> None:
        pass

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self.trouble = error
        # A watch waits until somebody puts right what is refused or unusable; a look tells of it at once.
        if isinstance(error, (PermissionDeniedError, UnsupportedServerError)):
            self.fail(error)

    def fail(self, error: DiscoveryError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
