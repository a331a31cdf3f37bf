"""Frames as a server sends them, and a connection that notes where they go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from nats.protocol.parser import Parser

from natsdisc.store.jetstream.messages import headers_that_matter
from natsdisc.store.jetstream.parser import Message, WatchParser, install

WATCHED, OTHERS, ENDED = (7, 77), (8, 88), (9, 99)
"""Subscriptions that are read directly, those of the connection's user, and those that have ended."""

Seen = tuple[object, ...]


class Connection:
    """The parts of a nats-py client that a parser uses. `seen` says which frames went where, in order."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self._pings_outstanding = 0
        self._subs = {sid: Subscription(sid) for sid in (*WATCHED, *OTHERS)}
        self._ps = Parser(self)

    @property
    def parser(self) -> Any:
        """The parser that is at work."""
        return self._ps

    def install(self, *, own: bool = False) -> WatchParser:
        """Put natsdisc's parser to work for the watched subscriptions."""
        parser = install(self, own=own)
        assert parser is not None
        for sid in WATCHED:
            parser.read(self._subs[sid], lambda batch, sid=sid: self._receive(sid, batch))  # type: ignore[misc]
        return parser

    def _receive(self, sid: int, batch: Sequence[Message]) -> None:
        assert batch
        self.seen += [("watched", sid, *message) for message in batch]

    async def feed(self, stream: bytes, cuts: Sequence[int]) -> None:
        """Let the parser at work parse `stream`, in parts of so many bytes, the rest at once."""
        for cut in cuts:
            await self._ps.parse(stream[:cut])
            stream = stream[cut:]
        await self._ps.parse(stream)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        # Where nats-py's client stops reading for good: it decodes subjects and looks into headers.
        subject.decode()
        if headers is not None and len(headers) < 9:
            raise IndexError("index out of range")
        await asyncio.sleep(0)
        self.seen.append(("other", sid, bytes(subject), bytes(reply), headers or b"", bytes(data)))

    async def _process_ping(self) -> None:
        self.seen.append(("ping",))

    async def _process_pong(self) -> None:
        self.seen.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.seen.append(("err", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.seen.append(("info", info))


class Subscription:
    """The part of a nats-py subscription that the parser uses."""

    def __init__(self, sid: int) -> None:
        self._id = sid


def frame(sid: int, subject: bytes, reply: bytes = b"", headers: bytes = b"", data: bytes = b"") -> bytes:
    """The bytes of a message."""
    words = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid]
    if reply:
        words.append(reply)
    if headers:
        words.append(b"%d" % len(headers))
    words.append(b"%d" % (len(headers) + len(data)))
    return b" ".join(words) + b"\r\n" + headers + data + b"\r\n"


def expected(sid: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> list[Seen]:
    """Where a frame has to go."""
    text, reply_text = (word.decode("utf-8", "backslashreplace") for word in (subject, reply))
    if sid in WATCHED:
        return [("watched", sid, text, reply_text, headers_that_matter(headers), data)]
    if sid in ENDED or 0 < len(headers) < 9:
        return []
    seen = [word.translate(BLANKS).encode() for word in (text, reply_text)]
    return [("other", sid, *seen, headers, data)]


BLANKS = str.maketrans({blank: f"\\x{ord(blank):02x}" for blank in " \t\n\x0b\x0c\r"})

# A server takes any byte in a subject but those that end a word or the line.
SUBJECT_BYTES = bytes(byte for byte in range(256) if byte not in b" \t\n")
words = st.lists(st.sampled_from(SUBJECT_BYTES), min_size=1, max_size=12).map(bytes)
subjects = st.one_of(
    st.sampled_from(
        [b"$KV.v1_instances.ns.comp.ep.1f", b"a", b"x.\xff.z", b"a.\x0bx", b"\x0c", b"n\x00l", b"e\r"]
    ),
    words,
    st.builds(lambda word, size: word * (size // len(word)), words, st.integers(4000, 4200)),
)
replies = st.one_of(
    st.just(b""),
    st.sampled_from([b"$JS.ACK.KV_v1_instances.c.1.2.3.4.5", b"$JS.FC.KV_b.c.x", b"_INBOX.x"]),
    words,
)
STAMP = b"Nats-Scheduler: $NATSDISC.LEASE.v1_instances.ns.comp.ep.1f"
header_parts = st.sampled_from(
    [
        *(b"NATS/1.0", b"NATS/1.0 100 Idle Heartbeat", b"NATS/1.0 ", b"X: y", b"Status: 409"),
        *(b"\r\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b":", b" ", b"\t", b"\x00", b"\xff"),
        *(b"KV-Operation: DEL", b"KV-Operation:PURGE", b"kv-operation: DEL", b"Nats-Marker-Reason: MaxAge"),
        *(STAMP, STAMP.lower(), b"Nats-Scheduler", b"Nats-Schedule-Next: purge", b"Natsdisc-Updated: 1"),
    ]
)
header_blocks = st.one_of(
    st.just(b""),
    st.sampled_from(
        [
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n",
            b"NATS/1.0\r\nKV-Operation: DEL\r\n" + STAMP + b"\r\n\r\n",
        ]
    ),
    st.lists(header_parts, min_size=1, max_size=8).map(b"".join),
    st.binary(min_size=1, max_size=30),
)
payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n", b"MSG a 7 0\r\n\r\n", b"PING\r\n"]),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(3900, 4300), st.integers(0, 255)),
    st.sampled_from([1 << 16, (1 << 20) - 1, 1 << 20]).map(lambda size: b"p" * size),
)
# Of a schedule, whose target the server does not look at again: only consumers deliver it, with a reply.
blank_subjects = st.sampled_from(
    [b"$KV.b.a.b.c.1Nats-Rollup: sub", b"a 7 b", b"a 7", b"7 7 7 7 7", b"a\nb", b" "]
)
blank_messages = st.tuples(
    st.sampled_from([*WATCHED, *OTHERS, *ENDED]),
    blank_subjects,
    st.sampled_from([b"$JS.ACK.KV_v1_instances.c.1.2.3.4.5", b"r"]),
    header_blocks,
    payloads,
)
messages = blank_messages | st.tuples(
    st.sampled_from([*WATCHED, *WATCHED, *OTHERS, *ENDED]), subjects, replies, header_blocks, payloads
)
frames = st.one_of(
    messages.map(lambda parts: (frame(*parts), expected(*parts))),
    st.sampled_from(
        [
            (b"PING\r\n", [("ping",)]),
            (b"PONG\r\n", [("pong",)]),
            (b"+OK\r\n", []),
            (b"-ERR 'No'\r\n", [("err", "'no'")]),
            (b'INFO {"a":1}\r\n', [("info", {"a": 1})]),
            (b"INFO {\r\n", []),  # no JSON
        ]
    ),
)
cuts = st.lists(
    st.one_of(st.integers(1, 60), st.integers(4000, 4200), st.sampled_from([4096, 32768])), max_size=40
)
