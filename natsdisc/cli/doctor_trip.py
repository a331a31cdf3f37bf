"""The round trip of `natsdisc doctor`: through the bucket and back, seen by nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from natsdisc import keys
from natsdisc.entry import BUCKETS
from natsdisc.errors import DiscoveryError
from natsdisc.model import EndpointInstanceId, Kind, RemovalReason
from natsdisc.store import ResyncReason
from natsdisc.store.jetstream.admin import Admin

__all__ = ["round_trip"]

_PATIENCE = 10.0  # seconds; a server that is well needs milliseconds


async def round_trip(admin: Admin, id: EndpointInstanceId) -> str:
    """Write the mark of a removal for `id`, which nobody has, see it arrive, and return the times.

    A removal of what was never there is no event: no watch, list or view of others shows anything. The mark
    goes by itself, as all of them do.
    Raises TimeoutError, and what a delete and a watch raise.
    """
    key = keys.key_of(id)
    bucket = admin.store.bucket(BUCKETS[Kind.ENDPOINT])
    seen = _Seen(key)
    reader = bucket.watch(keys.to_token(id.namespace), seen, shared=False)
    try:
        async with asyncio.timeout(_PATIENCE):
            await seen.when(seen.ready)
            started = time.monotonic()
            await bucket.delete(key, revision=0)
            written = time.monotonic()
            await seen.when(seen.gone)
    finally:
        await reader.aclose()
    seen_after = time.monotonic() - started
    return (
        f"a mark is written after {(written - started) * 1000:.0f} ms, seen after {seen_after * 1000:.0f} ms"
    )


class _Seen:
    """A sink that waits for the removal of one key."""

    def __init__(self, key: str) -> None:
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self._key = key
        self._error: DiscoveryError | None = None

    async def when(self, event: asyncio.Event) -> None:
        """Wait for `event`; raise what ended the watch instead."""
        await event.wait()
        if self._error is not None:
            raise self._error

    def recover(self) -> None: ...

    def begin(self) -> None: ...

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None: ...

    def delete(self, key: str, reason: RemovalReason) -> None:
        if key == self._key:
            self.gone.set()

    def keep(self, key: str) -> None: ...

    def end(self) -> None:
        self.ready.set()

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None: ...

    def fail(self, error: DiscoveryError) -> None:
        self._error = error
        self.ready.set()
        self.gone.set()
