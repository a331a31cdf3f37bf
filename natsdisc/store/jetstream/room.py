"""How much a nats-py connection takes before it lets a caller wait, without a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from nats.aio.client import Client

from ...errors import StoreUnavailableError

__all__ = ["Room"]

# nats-py keeps this many bytes that are not sent yet; the next caller waits until all of them are sent.
_UNSENT_BYTES = 2 * 1024 * 1024
_LOOK_EVERY_S = 0.01


class Room:
    """The room for unsent bytes in the connection `nc`."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc

    def has(self, size: int) -> bool:
        """Return whether nats-py takes so many bytes now; a message above its limit waits for its turn."""
        unsent = int(self._nc.pending_data_size)
        return unsent == 0 or unsent + size < _UNSENT_BYTES

    async def wait(self, subject: str, size: int, deadline: float) -> None:
        """Wait until there is room for `size` bytes; raises StoreUnavailableError at the deadline."""
        while not self.has(size):
            if time.monotonic() > deadline or not self._nc.is_connected:
                raise StoreUnavailableError(
                    f"could not send to {subject}: the NATS connection takes no more bytes; the last error: "
                    f"{self._nc.last_error}"
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    async def publish(
        self, publishing: Coroutine[Any, Any, None], subject: str, size: int, deadline: float
    ) -> None:
        """Await nats-py's `publish`, which waits without bound over a message above its limit."""
        if size < _UNSENT_BYTES:
            await publishing
            return
        # nats-py swallows a cancellation here, so a timeout around it would not end.
        task = asyncio.ensure_future(publishing)
        try:
            await asyncio.wait((task,), timeout=max(0.0, deadline - time.monotonic()))
        finally:
            task.cancel()
        if not task.done():
            raise StoreUnavailableError(f"could not send to {subject}: the NATS connection takes no bytes")
        task.result()
