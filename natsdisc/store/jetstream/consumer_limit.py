"""The number of consumers that a stream may have: raised when it is used up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...errors import PermissionDeniedError, StoreUnavailableError
from .api import ApiError
from .stream_config import MAX_CONSUMERS

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["ConsumerLimit"]

_ASK_AGAIN_S = 300.0


class ConsumerLimit:
    """The limit of consumers of `stream`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._asked = float("-inf")

    async def lift(self) -> None:
        """Let the stream have more consumers, if it names no number itself and this user may change that.

        The server is asked once in five minutes at most. A refusal is logged.
        """
        now = time.monotonic()
        if self._stream.info_denied or now - self._asked < _ASK_AGAIN_S:
            return
        self._asked = now
        try:
            if await self._stream.look() and self._stream.max_consumers <= 0:
                await self._stream.reconfigure(max_consumers=MAX_CONSUMERS)
        except (PermissionDeniedError, StoreUnavailableError, ApiError) as error:
            self._stream.reports.consumer_limit(MAX_CONSUMERS, error)
