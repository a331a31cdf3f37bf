"""What must hold for any bytes that a server can send: properties, run by the tests and by `__main__`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from natsdisc import entry, keys, wire
from natsdisc.cache import UNREADABLE_KEPT_S, Cache
from natsdisc.changes import Change
from natsdisc.errors import DiscoveryError, InvalidValueError
from natsdisc.model import Added, EndpointInstance, Instance, Kind, RemovalReason, Transport
from natsdisc.store import ResyncReason
from natsdisc.store.jetstream.api import JetStreamApi
from natsdisc.store.jetstream.delivery import Delivery
from natsdisc.store.jetstream.messages import FORGED, parse_headers, removal
from natsdisc.store.jetstream.requester import Requester
from natsdisc.store.jetstream.servertime import ServerTime
from natsdisc.store.jetstream.stream import Stream
from natsdisc.store.jetstream.stream_config import StreamOptions

from . import frames as fr

__all__ = ["PROPERTIES"]

GRACE = 1.0
INBOX = b"_INBOX.watch"
ACK = b"$JS.ACK.KV_v1_instances.reader.1.%d.%d.1700000000000.%d"
OWN_LEASE = "$NATSDISC.LEASE.v1_instances.ns.comp.ep.1f"

Frame = tuple[bytes, list[fr.Seen]]


@given(stream=st.lists(fr.frames, max_size=12), cuts=fr.cuts, own=st.booleans(), install_at=st.integers(0, 3))
def every_frame_arrives_once_and_in_order(
    stream: list[Frame], cuts: list[int], own: bool, install_at: int
) -> None:
    """On our own connection and on a user's, whatever is around a frame and however it is cut."""
    connection = fr.Connection()
    # nats-py alone is at work until then, with frames of others that it can read.
    before = [fr.frame(8, b"before", b"", b"", b"%d" % number) for number in range(install_at)]
    told = [fr.expected(8, b"before", b"", b"", b"%d" % number)[0] for number in range(install_at)]

    async def feed() -> None:
        await connection.feed(b"".join(before), [9])
        connection.install(own=own)
        await connection.feed(b"".join(data for data, _ in stream), cuts)

    asyncio.run(feed())
    assert connection.seen == [*told, *(seen for _, all_seen in stream for seen in all_seen)]
    assert not connection.parser.buf


@given(noise=st.binary(max_size=6000), cuts=fr.cuts)
def noise_ends_the_connection_or_is_read(noise: bytes, cuts: list[int]) -> None:
    """Bytes that no server sends: the only error is the one over which nats-py connects anew."""
    connection = fr.Connection()
    connection.install()
    try:
        asyncio.run(connection.feed(noise + b"\r\n", cuts))
    except ProtocolError:
        return
    assert len(connection.parser.buf) <= len(noise) + 2


@given(block=fr.header_blocks)
def any_block_of_headers_can_be_read(block: bytes) -> None:
    """A block that holds a stamp is never a value, and only one that is a lease's whole work removes."""
    headers = parse_headers(block)
    meaning = removal(headers, OWN_LEASE)
    if b"Nats-Scheduler" in block:
        assert meaning is not None
    if meaning not in (None, FORGED) and "Nats-Scheduler" in headers:
        assert block.count(b"Nats-Scheduler") == 1
        assert b"\r\n" + fr.STAMP + b"\r\n" in block


# A CR is shown as a blank: what follows it looks like the stamp of another lease.
leases = fr.words | st.sampled_from([b"a.Nats-Scheduler:\r", b"\rNats-Scheduler:\r"]).map(
    lambda lease: lease + OWN_LEASE.encode()
)


@given(before=fr.header_blocks, cut=st.binary(max_size=2), lease=leases, ttl=st.booleans())
def what_a_schedule_writes_is_recognised(before: bytes, cut: bytes, lease: bytes, ttl: bool) -> None:
    """As the server does it: two bytes of the client's block go, and the stamp is appended."""
    block = before + cut
    block = block[:-2] if len(block) > 2 else b"NATS/1.0\r\n"
    shown = lease.replace(b"\r", b" ").strip(b" \t")
    block += b"Nats-Scheduler: " + shown + b"\r\nNats-Schedule-Next: purge\r\n"
    block += (b"Nats-TTL: 5s\r\n" if ttl else b"") + b"\r\n"
    assert removal(parse_headers(block), OWN_LEASE) is FORGED


values = st.one_of(
    st.builds(
        lambda number, address: wire.dumps(
            EndpointInstance("ns", "comp", "ep", number, transport=Transport.tcp(address))
        ),
        st.integers(30, 33),
        st.text(max_size=5),
    ),
    fr.payloads,
)
keys_of_a_bucket = st.one_of(
    st.integers(30, 33).map(lambda number: b"ns.comp.ep.%x" % number), fr.words, st.just(b"ns.comp.ep.a\x0b")
)
stored = st.tuples(keys_of_a_bucket, fr.header_blocks, values)
controls = st.sampled_from(
    [
        (INBOX, b"", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b""),
        (INBOX, b"$JS.FC.KV_v1_instances.reader.x", b"NATS/1.0 100 FlowControl Request\r\n\r\n", b""),
        (INBOX, b"$JS.API.STREAM.DELETE.KV_v1_instances", b"NATS/1.0 100 FlowControl Request\r\n\r\n", b""),
    ]
)
others_deliveries = st.sampled_from(
    [
        (b"$KV.v1_instances.ns.comp.ep.1f", ACK.replace(b"reader", b"other") % (1, 1, 0), b"", b"forged"),
        (b"$KV.v1_instances.ns.comp.ep.1f", b"", b"", b"forged"),
        (b"$KV.v1_instances.ns.comp.ep.1f", b"_INBOX.x", b"NATS/1.0\r\nStatus: 100\r\n\r\n", b"forged"),
        (b"$KV.v1_instances.other.comp.ep.1f", ACK % (1, 1, 0), b"", b"forged"),
        (INBOX, b"", b"NATS/1.0\r\n\r\n", b"forged"),
        (INBOX, b"", b"", b""),
    ]
)


class Picture:
    """A sink over a cache, as a watch has it."""

    def __init__(self) -> None:
        self.cache = Cache(partial(entry.decode, Kind.ENDPOINT), grace=GRACE)
        self.changes: list[Change] = []
        self.now = 0.0

    def recover(self) -> None:
        self.cache.recover(self.now)

    def begin(self) -> None:
        self.cache.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self.changes += self.cache.put(entries, self.now)

    def delete(self, key: str, reason: RemovalReason) -> None:
        self.changes += self.cache.delete(key, reason, self.now)

    def keep(self, key: str) -> None:
        self.cache.keep(key, self.now)

    def end(self) -> None:
        self.cache.end(self.now)

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        raise AssertionError(reason)

    def fail(self, error: DiscoveryError) -> None:
        raise AssertionError(error)


Parts = tuple[bytes, bytes, bytes, bytes]


@given(
    sent=st.lists(st.one_of(stored, stored, controls, others_deliveries), max_size=14),
    cuts=fr.cuts,
    counted=st.integers(0, 14),
)
def a_picture_is_what_the_bucket_holds(sent: list[tuple[bytes, ...]], cuts: list[int], counted: int) -> None:
    """From the bytes to the picture: the same for every cut, and nobody else's message changes it."""
    stream, model, number = b"", dict[str, bytes](), 0
    total = sum(len(parts) == 3 for parts in sent)
    for parts in sent:
        if len(parts) == 4:
            stream += fr.frame(7, *parts)
            continue
        key, headers, value = parts
        number += 1
        reply = ACK % (100 + number, number, total - number)
        stream += fr.frame(7, b"$KV.v1_instances.ns.comp." + key, reply, headers, value)
        text = "ns.comp." + key.decode("utf-8", "backslashreplace")
        meaning = removal(parse_headers(headers), "$NATSDISC.LEASE.v1_instances." + text)
        if meaning is None:
            model[text] = value
        elif meaning is FORGED:
            model[text] = b""  # like a value that cannot be read
        else:
            model.pop(text, None)
    pictures = [
        _picture_of(stream, each, min(counted, total)) for each in ([], cuts, [1] * min(len(stream), 300))
    ]
    assert pictures[0].changes == pictures[1].changes == pictures[2].changes
    for picture in pictures:
        picture.changes += picture.cache.advance(GRACE + UNREADABLE_KEPT_S)
        live = {
            key: instance for key, value in model.items() if (instance := _decoded(key, value)) is not None
        }
        assert picture.cache.picture.live == live
        assert all(keys.key_of(instance.id) == key for key, instance in live.items())
        shown: dict[str, Instance] = {}
        for change in picture.changes:
            assert change.before == shown.get(change.key)
            if isinstance(change.event, Added):
                shown[change.key] = change.event.instance
            else:
                del shown[change.key]
        assert shown == live


def _decoded(key: str, value: bytes) -> Instance | None:
    try:
        return entry.decode(Kind.ENDPOINT, key, value)
    except InvalidValueError:
        return None


def _picture_of(stream: bytes, cuts: list[int], counted: int) -> Picture:
    async def follow() -> Picture:
        bucket = Stream(JetStreamApi(Requester(Client())), "v1_instances", StreamOptions(), ServerTime())
        answers: list[str] = []
        picture, wake = Picture(), asyncio.Event()
        delivery = Delivery(bucket, "$KV.v1_instances.ns.comp.>", "reader", picture, wake, answers.append)
        connection = fr.Connection()
        connection.install().read(connection._subs[7], delivery.receive)
        picture.begin()
        delivery.expect(counted)
        await connection.feed(stream, cuts)
        assert delivery.bug is None
        assert delivery.resync is None
        assert all(answer.startswith("$JS.FC.") for answer in answers)
        assert not connection.parser.buf
        return picture

    return asyncio.run(follow())


@given(value=values, kind=st.sampled_from(list(Kind)), key=st.one_of(st.text(), keys_of_a_bucket.map(repr)))
def a_value_is_an_instance_or_invalid(value: bytes, kind: Kind, key: str) -> None:
    """Nothing else is raised; and an instance is written as it was read."""
    for decode in (
        wire.loads,
        partial(entry.decode, kind, key),
        partial(entry.decode, kind, "ns.comp.ep.1f"),
    ):
        try:
            instance = decode(value)
        except InvalidValueError:
            continue
        assert wire.loads(wire.dumps(instance)) == instance


PROPERTIES: list[Callable[[], None]] = [
    every_frame_arrives_once_and_in_order,
    noise_ends_the_connection_or_is_read,
    any_block_of_headers_can_be_read,
    what_a_schedule_writes_is_recognised,
    a_picture_is_what_the_bucket_holds,
    a_value_is_an_instance_or_invalid,
]
