"""How large a message may be, which a server does not always tell.

A server tells its limit in its first line and, behind the credentials, the account's. It does not tell open
connections of a change: it ends a connection that sends too much, and says nothing when it takes more again.
"""

from __future__ import annotations

import asyncio
import json
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
# A server is asked for its limit again at most once in so many seconds, and has that long to answer.
_LOOK_EVERY_S, _LOOK_TIMEOUT_S = 5.0, 2.0
_LONGEST_LINE_BYTES = 65_536


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
        self._looked_at = float("-inf")

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

    async def look(self) -> None:
        """Read the server's first line on another connection, and take a larger limit that it tells.

        It changes nothing where an account or user has a limit, which that line does not tell, on websockets,
        where TLS comes before the first line, and on a connection that a user made. Raises nothing.
        """
        nc, now = self._nc, time.monotonic()
        first, url = getattr(nc, "first_max_payload", None), nc.connected_url
        if first is None or first != nc.max_payload or url is None or now - self._looked_at < _LOOK_EVERY_S:
            return
        if url.scheme in ("ws", "wss") or nc.options.get("tls_handshake_first"):
            return
        self._looked_at = now
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                told = await _first_line(url.hostname, url.port or 4222)
        except (OSError, ValueError, TimeoutError):
            return
        if told > first == nc.max_payload and nc.connected_url == url:
            nc._max_payload = nc.first_max_payload = told

    def violated(self, sizes: Collection[int]) -> None:
        """Note that the server refused one of the messages under way, which was the largest at least."""
        size = max(sizes, default=0)
        if size > _ALWAYS_TAKEN_BYTES:
            self._refused = time.monotonic(), size, int(self._nc.max_payload)


async def _first_line(host: str, port: int) -> int:
    """Return the `max_payload` that the server tells in its first line; raise ValueError without one."""
    reader, writer = await asyncio.open_connection(host, port, limit=_LONGEST_LINE_BYTES)
    try:
        word, _, fields = (await reader.readline()).partition(b" ")
        info = json.loads(fields) if word == b"INFO" else None
        if not isinstance(info, dict) or not isinstance(info.get("max_payload"), int):
            raise ValueError("no NATS server")
        return int(info["max_payload"])
    finally:
        writer.transport.abort()
