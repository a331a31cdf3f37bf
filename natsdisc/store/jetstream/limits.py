"""How large a message may be, which a server does not always tell."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from nats.aio.client import Client

__all__ = ["Limits", "size_of"]

_HEADER_FRAME = len(b"NATS/1.0\r\n\r\n")
_HEADER_LINE = len(b": \r\n")
# A size that a server refused without having told a limit is refused here for so many seconds.
_REMEMBERED_S = 60.0
# Every server takes this many bytes: a smaller message was not the one that was refused.
_ALWAYS_TAKEN_BYTES = 1024


def size_of(payload: bytes, headers: Mapping[str, str] | None) -> int:
    """Return the bytes that the server counts: the payload and the header block as nats-py writes it."""
    if not headers:
        return len(payload)
    lines = sum(len(name.encode()) + len(value.encode()) + _HEADER_LINE for name, value in headers.items())
    return len(payload) + lines + _HEADER_FRAME


class Limits:
    """The largest message of a connection: what the server told, or less if it refused less."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._refused: tuple[float, int, int] | None = None  # when, the size, and what the server told then

    @property
    def max_payload(self) -> int:
        """Bytes the server takes as one message, headers included."""
        told = int(self._nc.max_payload)
        if self._refused is None:
            return told
        at, size, told_then = self._refused
        # A reconnect tells a new limit, if the server tells it at all.
        if told != told_then or time.monotonic() - at > _REMEMBERED_S:
            self._refused = None
            return told
        return min(told, size - 1)

    def violated(self, sizes: Collection[int]) -> None:
        """Note that the server refused one of the messages under way, which was the largest at least."""
        size = max(sizes, default=0)
        if size > _ALWAYS_TAKEN_BYTES:
            self._refused = time.monotonic(), size, int(self._nc.max_payload)
