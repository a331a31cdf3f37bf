"""A shortcut through nats-py for the messages of a watch, on connections that `connect` makes.

nats-py parses every header, builds a message and hands it to a task; a snapshot of ten thousand instances
spends most of its time there. Here whole frames of chosen subscriptions go from the socket's bytes to one
callback, as many at once as one read brought. Everything else takes nats-py's own way, and so do connections
that a user made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from .messages import headers_that_matter

__all__ = ["DirectClient", "Message", "Receive"]

_CRLF = b"\r\n"

# Subject, reply, headers (those that matter, or None) and payload.
Message: TypeAlias = tuple[str, str, Mapping[str, str] | None, bytes]
Receive: TypeAlias = Callable[[Sequence[Message]], None]


class DirectClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """A nats-py client whose subscriptions can be read directly."""

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[str, Receive] = {}
        self._ps = DirectParser(self, self._direct)

    def read_directly(self, sid: int, receive: Receive) -> None:
        """Hand the messages of subscription `sid` to `receive`, which must not raise."""
        self._direct[str(sid)] = receive

    def stop_reading(self, sid: int) -> None:
        """Hand nothing of subscription `sid` to anybody any more."""
        self._direct.pop(str(sid), None)


class DirectParser(Parser):  # type: ignore[misc]
    """nats-py's parser, with its first look at a buffer for frames that are read directly."""

    def __init__(self, client: Any, direct: dict[str, Receive]) -> None:
        super().__init__(client)
        self._direct = direct
        # Most messages of a bucket were written alike, and so have the very same header block.
        self._last_block = b""
        self._last_headers = headers_that_matter(b"")
        self._wanted = 0  # so many bytes has the frame that the buffer begins with, if that is known

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave. The order of frames is kept, whoever reads them."""
        # Whatever arrives is a sign of life: the answer to a ping waits behind up to 32 MiB of a snapshot,
        # and nats-py would give up a connection that is busy.
        self.nc._pings_outstanding = 0
        if not self._direct:
            self._wanted = 0
            await super().parse(data)
            return
        while data:
            if self.state != AWAITING_CONTROL_LINE:
                missing = self.needed + len(_CRLF) - len(self.buf)
                head, data = data[:missing], data[missing:]
                await super().parse(head)
                continue
            if self.buf:
                self.buf.extend(data)
                if len(self.buf) < self._wanted:
                    return  # a large one comes in many parts
                data = bytes(self.buf)
                self.buf.clear()
            at, end = self._take_frames(data)
            if end is None:
                self.buf.extend(data[at:])
                return
            await super().parse(data[at:end])
            data = data[end:]

    def _take_frames(self, data: bytes) -> tuple[int, int | None]:
        """Where the first frame lies that is not ours, and where it ends; None if more bytes are needed."""
        at, end, size, direct, self._wanted = 0, None, len(data), self._direct, 0
        batch: list[Message] = []
        reader: Receive | None = None
        while at < size:
            line_end = data.find(_CRLF, at)
            if line_end < 0:
                break
            start = line_end + 2
            # A subject that is no text is kept as one that no key has.
            words = data[at:line_end].decode("utf-8", "backslashreplace").split(" ")
            verb, count = words[0], len(words)
            if verb == "HMSG":
                reply = words[3] if count == 6 else ""
                payload = start + int(words[-2])
            elif verb == "MSG":
                reply = words[3] if count == 5 else ""
                payload = start
            else:
                end = start
                break
            frame_end = start + int(words[-1])
            receive = direct.get(words[2])
            if receive is None:
                end = min(size, frame_end + 2)
                break
            if frame_end + 2 > size:
                self._wanted = frame_end + 2 - at
                break
            block = data[start:payload]
            if block != self._last_block:
                self._last_block, self._last_headers = block, headers_that_matter(block)
            if receive is not reader:
                if reader is not None:
                    reader(batch)
                reader, batch = receive, []
            batch.append((words[1], reply, self._last_headers, data[payload:frame_end]))
            at = frame_end + 2
        if reader is not None:
            reader(batch)
        return at, end
