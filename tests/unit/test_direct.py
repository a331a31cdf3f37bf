"""The shortcut through nats-py's parser: any cut of any stream gives the frames, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natsdisc.store.jetstream.direct import DirectParser, Message, Receive

Frame = tuple[bytes, bytes, bytes, bytes]
DIRECT = ("sid 7", "sid 77")


class Connection:
    """What nats-py's parser tells of the frames that are not read directly."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self._pings_outstanding = 0

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        self.log.append((f"sid {sid}", (bytes(subject), bytes(reply), headers or b"", data)))

    async def _process_ping(self) -> None:
        self.log.append(("ping", None))

    async def _process_pong(self) -> None:
        self.log.append(("pong", None))

    async def _process_err(self, text: str) -> None:
        self.log.append(("err", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.log.append(("info", info))


def message(sid: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    words = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid]
    if reply:
        words.append(reply)
    if headers:
        words.append(b"%d" % len(headers))
    words.append(b"%d" % (len(headers) + len(data)))
    return b" ".join(words) + b"\r\n" + headers + data + b"\r\n"


tokens = st.sampled_from([b"a", b"$KV.b.c", b"x.\xff.z"])
messages = st.builds(
    lambda sid, subject, reply, headers, data: (
        message(sid, subject, reply, headers, data),
        (f"sid {sid}", (subject, reply, headers, data)),
    ),
    st.sampled_from([7, 77, 8]),
    tokens,
    st.sampled_from([b"", b"$JS.ACK.1"]),
    st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"]),
    st.binary(max_size=40),
)
others = st.sampled_from(
    [
        (b"PING\r\n", ("ping", None)),
        (b"PONG\r\n", ("pong", None)),
        (b"-ERR 'No'\r\n", ("err", "'no'")),
        (b'INFO {"a":1}\r\n', ("info", {"a": 1})),
    ]
)


@given(
    frames=st.lists(st.one_of(messages, others), max_size=12), cuts=st.lists(st.integers(1, 200), max_size=30)
)
def test_any_cut_gives_every_frame_once_and_in_order(
    frames: list[tuple[bytes, tuple[str, Any]]], cuts: list[int]
) -> None:
    connection = Connection()
    log = connection.log

    def reader(sid: int) -> Receive:
        def receive(batch: Sequence[Message]) -> None:
            assert batch
            log.extend((f"sid {sid}", message) for message in batch)

        return receive

    parser = DirectParser(connection, {"7": reader(7), "77": reader(77)})
    stream = b"".join(data for data, _ in frames)

    async def feed() -> None:
        rest = stream
        for cut in cuts:
            await parser.parse(rest[:cut])
            rest = rest[cut:]
        await parser.parse(rest)

    asyncio.run(feed())
    assert log == [(who, as_read(what) if who in DIRECT else what) for _, (who, what) in frames]


async def test_what_arrives_answers_a_ping() -> None:
    """The answer itself waits behind a snapshot: a connection that is busy is not a dead one."""
    connection = Connection()
    parser = DirectParser(connection, {"7": lambda batch: None})
    connection._pings_outstanding = 1
    await parser.parse(message(7, b"a", b"", b"", b"")[:5])
    assert connection._pings_outstanding == 0


def as_read(frame: Frame) -> Message:
    """What a direct reader gets of a frame: text, and the headers that say something of the entry."""
    subject, reply, headers, data = frame
    matter = {"KV-Operation": "DEL"} if b"KV-" in headers else None
    return subject.decode("utf-8", "backslashreplace"), reply.decode(), matter, data


async def test_a_large_frame_is_looked_at_when_it_is_there() -> None:
    """Looking at what there is after each of its parts would cost the square of its size."""
    looks = 0
    got: list[Message] = []

    class Counting(DirectParser):
        def _take_frames(self, data: bytes) -> tuple[int, int | None]:
            nonlocal looks
            looks += 1
            return super()._take_frames(data)

    parser = Counting(Connection(), {"7": got.extend})
    frames = message(7, b"a", b"$JS.ACK.1", b"", b"x" * 100_000) + message(7, b"b", b"", b"", b"y")
    for at in range(0, len(frames), 1_000):
        await parser.parse(frames[at : at + 1_000])
    assert [(subject, len(data)) for subject, _, _, data in got] == [("a", 100_000), ("b", 1)]
    assert looks <= 4
