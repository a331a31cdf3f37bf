"""The number of consumers that a stream may have: raised when it is used up."""

from __future__ import annotations

import time

from ...errors import PermissionDeniedError, StoreUnavailableError
from .api import ApiError
from .stream import Stream
from .stream_config import MAX_CONSUMERS

__all__ = ["lift_consumer_limit"]

_ASK_AGAIN_S = 300.0


async def lift_consumer_limit(stream: Stream) -> None:
    """Let `stream` have more consumers, if it names no number itself and this user may change that.

    The server is asked once in five minutes at most. A refusal is logged.
    """
    now = time.monotonic()
    if stream.info_denied or now - stream.limit_lifted < _ASK_AGAIN_S:
        return
    stream.limit_lifted = now
    try:
        if await stream.look() and stream.max_consumers <= 0:
            await stream.reconfigure(max_consumers=MAX_CONSUMERS)
    except (PermissionDeniedError, StoreUnavailableError, ApiError) as error:
        stream.reports.consumer_limit(MAX_CONSUMERS, error)
