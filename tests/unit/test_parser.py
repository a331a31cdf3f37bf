"""The parser of watches: any cut of any stream gives every frame once and in order. See tests/fuzz too."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from natsdisc.store.jetstream import parser as parser_module
from natsdisc.store.jetstream import probe
from natsdisc.store.jetstream.parser import WatchParser, install
from tests.fuzz.frames import ENDED, OTHERS, WATCHED, Connection, expected, frame

OURS, OTHER, DEAD = WATCHED[0], OTHERS[0], ENDED[0]


@pytest.mark.parametrize("size", [0, 4000, 4095, 4096, 5000])
@pytest.mark.parametrize("blank", [b"\x0b", b"\x0c", b"\r", b"\x00", b"\xff"])
@pytest.mark.parametrize("sid", [OURS, OTHER, DEAD])
async def test_a_subject_with_any_byte_stops_nothing(sid: int, blank: bytes, size: int) -> None:
    """nats-py waits for ever for the end of a line that it cannot read, once it holds 4 kB."""
    hostile = (sid, b"$KV.b.a." + blank + b"x", b"", b"", b"v" * size)
    around = (OTHER, b"orders", b"_INBOX.a", b"", b"order")
    connection = Connection()
    connection.install()
    stream = frame(*around) + frame(*hostile) + frame(*around)
    await connection.feed(stream, [len(frame(*around)) + 3, 7, 4096])
    assert connection.seen == expected(*around) + expected(*hostile) + expected(*around)
    assert not connection.parser.buf


@pytest.mark.parametrize("cut", range(0, 60, 3))
async def test_it_can_take_over_in_the_middle_of_a_message(cut: int) -> None:
    parts = [(OTHER, b"a", b"r", b"NATS/1.0\r\nA: b\r\n\r\n", b"first"), (OURS, b"k", b"", b"", b"second")]
    stream = b"".join(frame(*each) for each in parts)
    connection = Connection()
    await connection.parser.parse(stream[:cut])
    connection.install()
    await connection.parser.parse(stream[cut:])
    told = [*expected(*parts[0]), *expected(*parts[1])]
    if cut < len(frame(*parts[0])):
        assert connection.seen == told
    else:  # nats-py has seen the second one's line, and hands it to the subscription's own callback
        assert connection.seen[0] == told[0]
        assert connection.seen[1][-1] == b"second"


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 7 x",
        b"MSG a 7 -1",
        b"MSG a x 1",
        b"MSG a 7",
        b"MSG a 7 r r 1",
        b"HMSG a 7 3 2",
        b"HMSG a 7 -1 2",
        b"HMSG a 7 2",
        b"MSG a 7 99999999999999999999",
        b"MSG a 8 %d" % (1 << 40),
        b"MSG a 7 1",  # two bytes come
        b"MSG a 8 1",
        b"HEY",
        b"",
    ],
)
async def test_what_no_server_sends_ends_the_connection(line: bytes) -> None:
    """nats-py connects anew then. Without an error it would wait for what never comes."""
    connection = Connection()
    connection.install()
    with pytest.raises(ProtocolError):
        await connection.parser.parse(line + b"\r\nhi\r\n" + b"x" * 5000)


async def test_a_line_without_end_is_not_kept() -> None:
    connection = Connection()
    connection.install()
    with pytest.raises(ProtocolError):
        for _ in range(100):
            await connection.parser.parse(b"M" * 32768)
    assert len(connection.parser.buf) < 2 << 20


async def test_a_reset_forgets_half_a_message() -> None:
    connection = Connection()
    connection.install()
    await connection.parser.parse(frame(OURS, b"a", data=b"x" * 9000)[:5000])
    connection.parser.reset()
    await connection.parser.parse(frame(OURS, b"b"))
    assert connection.seen == expected(OURS, b"b", b"", b"", b"")


async def test_a_reset_in_the_middle_of_a_read_ends_it() -> None:
    """A reset means a new connection: what is left of the old one must not stay in the buffer."""
    connection = Connection()
    connection.install()

    async def process_err(text: str) -> None:
        connection.parser.reset()

    connection._process_err = process_err  # type: ignore[method-assign]
    await connection.parser.parse(b"-ERR 'Gone'\r\n" + frame(OURS, b"a") + b"MSG")
    assert connection.seen == []
    await connection.parser.parse(b"PING\r\n")
    assert connection.seen == [("ping",)]


@pytest.mark.parametrize("own", [False, True])
async def test_what_arrives_answers_a_ping(own: bool) -> None:
    """The answer itself waits behind a snapshot: a connection that is busy is not a dead one."""
    connection = Connection()
    connection.install(own=own)
    connection._pings_outstanding = 1
    await connection.parser.parse(frame(OTHER, b"a")[:5])
    assert connection._pings_outstanding == (0 if own else 1)
    connection._pings_outstanding = 1
    await connection.parser.parse(frame(OTHER, b"a")[5:] + frame(OURS, b"a"))
    assert connection._pings_outstanding == 0


async def test_messages_count_in_the_connections_statistics() -> None:
    connection = Connection()
    connection.install()
    await connection.parser.parse(
        frame(OURS, b"a", data=b"12") + frame(OURS, b"b", b"", b"NATS/1.0\r\n\r\n", b"3")
    )
    assert connection.stats == {"in_msgs": 2, "in_bytes": 3}


async def test_a_reader_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection()

    def fail(batch: object) -> None:
        raise RuntimeError("no")

    connection.install().read(connection._subs[OURS], fail)
    with caplog.at_level(logging.CRITICAL + 1, logger=parser_module.__name__):
        await connection.parser.parse(frame(OURS, b"a") + frame(OTHER, b"a"))
    assert connection.seen == expected(OTHER, b"a", b"", b"", b"")


async def test_a_large_frame_is_looked_at_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at what there is after each of its parts would cost the square of its size."""
    looks = 0
    take = WatchParser._take

    def counting(self: Any, data: bytes, at: int) -> Any:
        nonlocal looks
        looks += 1
        return take(self, data, at)

    monkeypatch.setattr(WatchParser, "_take", counting)
    for sid in (OURS, OTHER):
        looks = 0
        connection = Connection()
        connection.install()
        stream = frame(sid, b"a", b"r", b"", b"x" * 100_000) + frame(OURS, b"b", b"", b"", b"y")
        await connection.feed(stream, [1_000] * 101)
        assert [seen[-1] for seen in connection.seen] == [b"x" * 100_000, b"y"]
        assert looks <= 5


class Unknown(Parser):  # type: ignore[misc]
    """A parser as some later nats-py might have it."""


@pytest.mark.parametrize("change", ["another parser", "no parser", "no subscriptions", "another client"])
def test_unknown_internals_are_left_alone(change: str, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    if change == "another parser":
        client._ps = Unknown(client)
    elif change == "no parser":
        del client._ps
    elif change == "no subscriptions":
        client._subs = ()
    else:
        client._ps.nc = Client()
    before = getattr(client, "_ps", None), type(getattr(client, "_ps", None))
    assert install(client) is None
    assert install(client) is None
    assert (getattr(client, "_ps", None), type(getattr(client, "_ps", None))) == before
    [record] = caplog.records
    assert record.natsdisc_event == "unknown_nats_py"  # type: ignore[attr-defined]


def test_the_parser_is_installed_once() -> None:
    client = Client()
    parser = client._ps
    assert install(client) is install(client) is parser


def test_a_parser_that_works_otherwise_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parse(self: object, data: bytes = b"") -> None: ...

    monkeypatch.setattr(Parser, "parse", parse)
    probe._parses_as_known.cache_clear()
    try:
        assert install(Client()) is None
    finally:
        probe._parses_as_known.cache_clear()
