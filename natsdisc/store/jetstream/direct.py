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

__all__ = ["DirectClient", "Message", "Receive", "guard_subjects"]

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


def guard_subjects(client: Client) -> Callable[[], None]:
    """Let a user's `client` go on when the subject of a message is no UTF-8; what comes back ends that.

    nats-py ends its read loop over such a message, and with it all of the user's traffic; once reconnected,
    again, for it is still in the bucket. Whoever may write a key could stop every process that watches.
    """
    guard = vars(client).get("_build_message")
    if not isinstance(guard, _SubjectGuard):
        guard = client._build_message = _SubjectGuard(client._build_message)
    guard.users += 1

    def release() -> None:
        guard.users -= 1
        if guard.users == 0 and vars(client).get("_build_message") is guard:
            del client._build_message

    return release


class _SubjectGuard:
    """nats-py's own way to build a message, given an escaped subject where it cannot read the real one."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build
        self.users = 0

    def __call__(self, sid: int, subject: bytes, *rest: Any) -> Any:
        try:
            return self._build(sid, subject, *rest)
        except UnicodeDecodeError:
            return self._build(sid, subject.decode("utf-8", "backslashreplace").encode(), *rest)


class DirectParser(Parser):  # type: ignore[misc]
    """nats-py's parser, with its first look at a buffer for frames that are read directly."""

    def __init__(self, client: Any, direct: dict[str, Receive]) -> None:
        super().__init__(client)
        self._direct = direct
        # Most messages of a bucket were written alike, and so have the very same header block.
        self._last_block = b""
        self._last_headers = headers_that_matter(b"")

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
        at, end, size, direct = 0, None, len(data), self._direct
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
