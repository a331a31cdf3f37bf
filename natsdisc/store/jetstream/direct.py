"""A shortcut through nats-py for the messages of a watch, on connections that `connect` makes.

nats-py parses every header, builds a message and hands it to a task; a snapshot of ten thousand instances
spends most of its time there. Here whole frames of chosen subscriptions go from the socket's bytes to one
callback. Everything else takes nats-py's own way, and so do connections that a user made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

__all__ = ["DirectClient", "Receive"]

_CRLF = b"\r\n"

# Subject, reply, header block and payload.
Receive: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]


class DirectClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """A nats-py client whose subscriptions can be read directly."""

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[bytes, Receive] = {}
        self._ps = DirectParser(self, self._direct)

    def read_directly(self, sid: int, receive: Receive) -> None:
        """Hand the frames of subscription `sid` to `receive`, which must not raise."""
        self._direct[b"%d" % sid] = receive

    def stop_reading(self, sid: int) -> None:
        """Hand nothing of subscription `sid` to anybody any more."""
        self._direct.pop(b"%d" % sid, None)


class DirectParser(Parser):  # type: ignore[misc]
    """nats-py's parser, with its first look at a buffer for frames that are read directly."""

    def __init__(self, client: Any, direct: dict[bytes, Receive]) -> None:
        super().__init__(client)
        self._direct = direct

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave. The order of frames is kept, whoever reads them."""
        if not self._direct:
            await super().parse(data)
            return
        while data:
            if self.state != AWAITING_CONTROL_LINE:
                missing = self.needed + len(_CRLF) - len(self.buf)
                head, data = data[:missing], data[missing:]
                await super().parse(head)
                continue
            if self.buf:
                data = bytes(self.buf) + data
                self.buf.clear()
            at, end = self._take_frames(data)
            if end is None:
                self.buf.extend(data[at:])
                return
            await super().parse(data[at:end])
            data = data[end:]

    def _take_frames(self, data: bytes) -> tuple[int, int | None]:
        """Where the first frame lies that is not ours, and where it ends; None if more bytes are needed."""
        at, size, direct = 0, len(data), self._direct
        while at < size:
            line_end = data.find(_CRLF, at)
            if line_end < 0:
                return at, None
            words = data[at:line_end].split(b" ")
            count, verb, start = len(words), words[0], line_end + len(_CRLF)
            if verb == b"HMSG":
                reply = words[3] if count == 6 else b""
                header = int(words[-2])
            elif verb == b"MSG":
                reply = words[3] if count == 5 else b""
                header = 0
            else:
                return at, start
            end = start + int(words[-1])
            receive = direct.get(words[2])
            if receive is None:
                return at, min(size, end + len(_CRLF))
            if end + len(_CRLF) > size:
                return at, None
            receive(words[1], reply, data[start : start + header], data[start + header : end])
            at = end + len(_CRLF)
        return at, None
