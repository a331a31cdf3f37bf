"""How full a bucket with a size limit is."""

from __future__ import annotations

import time
from typing import Any

from ...errors import StoreUnavailableError

__all__ = ["Fill"]

# Beyond this part of its limit a bucket takes nothing new: the server would remove the oldest messages.
_FULL = 0.9
# For so long (seconds) what the server told is added to instead of being asked for again.
_KNOWN_FOR_S = 1.0
# A registration takes this besides its value: subjects, headers and its lease.
_OVERHEAD_BYTES = 700


class Fill:
    """The bytes in the bucket `bucket`, and its limit if it has one."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._limit = 0
        self._bytes = 0
        self._told = float("-inf")

    @property
    def is_old(self) -> bool:
        """Whether the bucket has a limit, and the server has to be asked again how full it is."""
        return self._limit > 0 and time.monotonic() - self._told > _KNOWN_FOR_S

    def note(self, config: dict[str, Any], size: int) -> None:
        """Note what the server tells: the stream's configuration, and how many bytes it has."""
        self._limit, self._bytes = int(config.get("max_bytes") or -1), size
        self._told = time.monotonic()

    def add(self, size: int) -> None:
        """Count a new value of `size` bytes. Raises StoreUnavailableError when the bucket is nearly full."""
        if self._limit <= 0:
            return
        self._bytes += size + _OVERHEAD_BYTES
        if self._bytes > _FULL * self._limit:
            raise StoreUnavailableError(
                f"the bucket {self._bucket} is nearly full ({self._bytes} of {self._limit} bytes) and takes "
                "nothing new: the server would remove the oldest registrations; raise its max_bytes"
            )
