"""What keeps a user's nats-py connection alive when a bucket holds a message that nats-py cannot read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.errors import ProtocolError

__all__ = ["guard"]

_CRLF = b"\r\n"


def guard(client: Client) -> Callable[[], None]:
    """Let a user's `client` go on over messages that nats-py cannot read; what comes back ends that.

    nats-py ends its read loop, or its connection, over such a message, and with it all of the user's traffic;
    once reconnected, again, for it is still in the bucket. Whoever may write a key could stop every process
    that watches.
    """
    found = vars(client).get("_build_message")
    the_guard = found.__self__ if isinstance(getattr(found, "__self__", None), _Guard) else _Guard(client)
    the_guard.users += 1

    def release() -> None:
        the_guard.users -= 1
        if the_guard.users == 0:
            the_guard.leave()

    return release


class _Guard:
    """nats-py's own ways, and what is done where it stumbles: over a subject, over headers, over blanks."""

    def __init__(self, client: Any) -> None:
        self.users = 0
        self._parser = client._ps
        self._build, self._read, self._parse = (
            client._build_message,
            client._process_headers,
            self._parser.parse,
        )
        self._places = (
            (client, "_build_message", self.build),
            (client, "_process_headers", self.read_headers),
            (self._parser, "parse", self.parse),
        )
        for owner, name, ours in self._places:
            setattr(owner, name, ours)

    def leave(self) -> None:
        """Give back what nobody else has changed since."""
        for owner, name, ours in self._places:
            if vars(owner).get(name) == ours:
                delattr(owner, name)

    def build(self, sid: int, subject: bytes, *rest: Any) -> Any:
        """A subject that is no UTF-8 is seen escaped."""
        try:
            return self._build(sid, subject, *rest)
        except UnicodeDecodeError:
            return self._build(sid, subject.decode("utf-8", "backslashreplace").encode(), *rest)

    async def read_headers(self, block: bytes) -> Any:
        """What are no headers are none: the server takes any bytes as such."""
        try:
            return await self._read(block)
        except Exception:
            return None

    async def parse(self, data: bytes = b"") -> None:
        """A subject with blanks of the kinds that the server takes is seen escaped."""
        while True:
            try:
                await self._parse(data)
                return
            except ProtocolError:
                if not self._escape_blanks():
                    raise
                data = b""

    def _escape_blanks(self) -> bool:
        line, end, _ = bytes(self._parser.buf).partition(_CRLF)
        escaped = line.replace(b"\x0b", b"\\x0b").replace(b"\x0c", b"\\x0c")
        if not end or escaped == line or not line.startswith((b"MSG ", b"HMSG ")):
            return False
        self._parser.buf[: len(line)] = escaped
        return True
