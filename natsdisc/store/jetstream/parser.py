"""The one patch of nats-py: a parser that hands the messages of chosen subscriptions to a callback.

nats-py parses every header, builds a message and hands it to a task; a snapshot of ten thousand instances
spends most of its time there. Worse, it stops reading for good after a subject or a header that it cannot
parse, and anybody who may write one key can send such a message. So `install` puts a parser of ours in the
place of the client's, on connections that `connect` makes and on users' connections alike:

- Frames of subscriptions that `WatchParser.read` names go straight from the socket's bytes to one callback,
  as many at once as one read brought.
- Frames of subscriptions that ended are dropped, as nats-py does, but before they are parsed.
- Everything else goes to nats-py's own parser, frame by frame, in its order.

It stays until the connection ends: frames of a watch that ended may be on their way for any time.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from nats.errors import ProtocolError

from ... import log
from .messages import headers_that_matter
from .probe import AWAITING_CONTROL_LINE, Parser, is_known

__all__ = ["Message", "Receive", "WatchParser", "install"]

_log = log.logger(__name__)

# Subject, reply, headers (those that matter, or None) and payload.
Message: TypeAlias = tuple[str, str, Mapping[str, str] | None, bytes]
Receive: TypeAlias = Callable[[Sequence[Message]], None]

_CRLF = b"\r\n"
# A server sends no longer line, by its own limits: 4 kB for what a client sends, and more for INFO.
_LONGEST_LINE = 1 << 20
# Bytes of one message. A server refuses to start with a max_payload above 64 MiB less what it adds.
_LARGEST_MESSAGE = 1 << 27
# Bytes that a server has in a subject and that nats-py cannot read there: blanks, and what is no UTF-8.
_UNREADABLE = re.compile(rb"[\t\n\x0b\x0c\r\x80-\xff]")
_BLANKS = str.maketrans({blank: f"\\x{ord(blank):02x}" for blank in " \t\n\x0b\x0c\r"})

_warned: weakref.WeakSet[Any] = weakref.WeakSet()


def install(client: Any, *, own: bool = False) -> WatchParser | None:
    """Let `client` parse with a `WatchParser` from now on, and return that parser.

    `own` says that `client` belongs to natsdisc: every byte that it reads then counts as a sign of life.
    Returns None, after one warning a client, when this nats-py works in another way than those we know.
    """
    parser: Any = getattr(client, "_ps", None)
    if isinstance(parser, WatchParser):
        return parser
    if not is_known(client, parser):
        if client not in _warned:
            _warned.add(client)
            _log.warning(
                "this version of nats-py is not known to natsdisc: watches take its slower public way, and "
                "a message that nats-py cannot read may stop the connection; use nats-py 2.12 to 2.16",
                extra=log.fields("unknown_nats_py"),
            )
        return None
    # In place, for the parser may be at work: it goes on with its own buffer.
    parser.__class__ = WatchParser
    installed: WatchParser = parser
    installed.begin(own=own)
    return installed


class WatchParser(Parser):  # type: ignore[misc]  # nats-py is not typed
    """nats-py's parser, with a first look at the bytes for frames that are read directly."""

    def begin(self, *, own: bool) -> None:
        """Begin to work in the place of nats-py's parser, whatever it has parsed so far."""
        self._own = own
        self._readers: dict[str, Receive] = {}
        # Most messages of a bucket were written alike, and so have the very same header block.
        self._last_block = b""
        self._last_headers = headers_that_matter(b"")
        self._wanted = 0  # bytes of the frame that the buffer begins with, if that is known
        self._resets = 0

    def read(self, subscription: Any, receive: Receive) -> None:
        """Hand the messages of `subscription` to `receive` from now on."""
        sid = getattr(subscription, "_id", None)
        if self.nc._subs.get(sid) is subscription:
            self._readers[str(sid)] = receive

    def stop(self, subscription: Any) -> None:
        """Hand over nothing more of `subscription`, which has ended: its frames are dropped from then on."""
        self._readers.pop(str(getattr(subscription, "_id", None)), None)

    def reset(self) -> None:
        """Forget what was parsed: nats-py calls this when it connects anew."""
        super().reset()
        self._wanted = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Parse the socket's bytes. The order of frames is kept, no matter where each of them goes."""
        if self._own:
            # The answer to a ping waits behind up to 32 MiB of a snapshot, and nats-py would give up a
            # connection that is busy.
            self.nc._pings_outstanding = 0
        resets = self._resets
        if self.state != AWAITING_CONTROL_LINE:  # `install` came in the middle of a message
            missing = self.needed + len(_CRLF) - len(self.buf)
            await self._pass_on(data[:missing])
            data = data[missing:]
        if self._resets == resets and data and self.buf:
            self.buf += data
            if len(self.buf) < self._wanted:
                return  # a large one comes in many parts
            data = bytes(self.buf)
            self.buf.clear()
        at = 0
        while self._resets == resets and at < len(data):
            at, end, frames = self._take(data, at)
            if frames is None:
                self.buf += data[at:]
                return
            if frames:
                await self._pass_on(frames)
            at = end

    def _take(self, data: bytes, at: int) -> tuple[int, int, bytes | None]:
        """Hand over what is read directly, up to frames of others or to the end.

        Return where the others' frames begin, where they end, and their bytes for nats-py; None instead of
        bytes when there is only a part of a frame left.
        """
        size, readers, known = len(data), self._readers, self.nc._subs
        batch: list[Message] = []
        reader: Receive | None = None
        others: int | None = None  # where frames for nats-py begin
        self._wanted = 0
        try:
            while at < size:
                line_end = data.find(_CRLF, at)
                if line_end < 0:
                    if size - at > _LONGEST_LINE:
                        raise ProtocolError
                    break
                start = line_end + 2
                # A subject that is no text is kept as one that no key has.
                words = data[at:line_end].decode("utf-8", "backslashreplace").split(" ")
                verb, count = words[0], len(words)
                if count > 6 or (count == 6 and verb == "MSG"):
                    words = _joined(words)
                    count = len(words)
                if verb == "HMSG" and 5 <= count <= 6:
                    reply = words[3] if count == 6 else ""
                    payload = start + int(words[-2])
                elif verb == "MSG" and 4 <= count <= 5:
                    reply = words[3] if count == 5 else ""
                    payload = start
                elif others is not None:
                    break
                else:
                    return at, start, data[at:start]
                frame_end = start + int(words[-1])
                end = frame_end + 2
                if not start <= payload <= frame_end <= start + _LARGEST_MESSAGE:
                    raise ProtocolError
                if end > size:
                    self._wanted = end - at
                    break
                if not data.startswith(_CRLF, frame_end):
                    raise ProtocolError
                receive = readers.get(words[2])
                if receive is None:
                    if not words[2].isdigit():
                        words = _joined(words)
                    if int(words[2]) in known:
                        if " " in words[1] or _UNREADABLE.search(data, at, line_end):
                            if others is None:
                                return at, end, _readable(words) + data[line_end:end]
                            break
                        if others is None:
                            others = at
                    elif others is not None:
                        break
                    at = end
                    continue
                if others is not None:
                    break
                block = data[start:payload]
                if block != self._last_block:
                    self._last_block, self._last_headers = block, headers_that_matter(block)
                if receive is not reader:
                    if reader is not None:
                        self._hand_over(reader, batch)
                    reader, batch = receive, []
                batch.append((words[1], reply, self._last_headers, data[payload:frame_end]))
                at = end
        except ValueError:
            raise ProtocolError from None  # a size that is no number
        finally:
            if reader is not None:
                self._hand_over(reader, batch)
        if others is not None:
            return others, at, data[others:at]
        return at, at, None

    def _hand_over(self, reader: Receive, batch: list[Message]) -> None:
        stats = self.nc.stats
        stats["in_msgs"] += len(batch)
        stats["in_bytes"] += sum(len(payload) for _, _, _, payload in batch)
        self.nc._pings_outstanding = 0
        try:
            reader(batch)
        except Exception:
            _log.exception(
                "the reader of a watch failed on %d messages; this is a bug in natsdisc",
                len(batch),
                extra=log.fields("reader_failed", messages=len(batch)),
            )

    async def _pass_on(self, frames: bytes) -> None:
        """Let nats-py parse whole frames of others, or the rest of one that it has begun.

        nats-py would stop reading for good where a message cannot be built. It goes on behind that one.
        """
        resets = self._resets
        while True:
            before = len(self.buf) + len(frames)
            try:
                await super().parse(frames)
                break
            except (ProtocolError, OSError):
                raise  # nats-py connects anew
            except Exception:
                _log.warning(
                    "nats-py cannot read a message, which is lost",
                    exc_info=True,
                    extra=log.fields("message_unreadable"),
                )
                if len(self.buf) >= before:
                    self.buf.clear()  # a line that it would stumble over again
            frames = b""
        if self._resets == resets and self.state == AWAITING_CONTROL_LINE and self.buf:
            raise ProtocolError  # nats-py would wait for more of a line that is complete


def _joined(words: list[str]) -> list[str]:
    """Return the words of a message's line whose subject has blanks, with the subject as one word.

    No client can publish under such a subject, but up to 2.15.1 the server glues `Nats-Rollup: sub` to the
    target of a schedule whose header block ends without its blank line.
    """
    sizes = {"MSG": 1, "HMSG": 2}.get(words[0])
    if sizes is None or len(words) < sizes + 4:
        return words
    tail = sizes + 2 if words[-sizes - 2].isdigit() else sizes + 1  # with or without a reply subject
    return [words[0], " ".join(words[1:-tail]), *words[-tail:]]


def _readable(words: list[str]) -> bytes:
    """Return a message's line with escapes for what nats-py cannot read."""
    return " ".join(word.translate(_BLANKS) for word in words).encode()
