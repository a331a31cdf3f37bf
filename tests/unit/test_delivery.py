"""What one consumer delivers, in its order or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from natsdisc.errors import DiscoveryError
from natsdisc.model import RemovalReason
from natsdisc.store import ResyncReason
from natsdisc.store.jetstream.api import JetStreamApi
from natsdisc.store.jetstream.delivery import Delivery, _delivered
from natsdisc.store.jetstream.requester import Requester
from natsdisc.store.jetstream.servertime import ServerTime
from natsdisc.store.jetstream.stream import Stream
from natsdisc.store.jetstream.stream_config import StreamOptions

INBOX = "_INBOX.reader"
STREAM_SEQUENCE = 100  # the stream's sequence is far ahead of the consumer's, as it is in life
STALLED = "$JS.FC.KV_v1_instances.reader.stalled"

Report = tuple[object, ...]


@dataclass
class Message:
    """The part of a nats-py message that a delivery reads."""

    subject: str
    reply: str = ""
    data: bytes = b""
    headers: dict[str, str] | None = None


def message(
    sequence: int, pending: int, key: str = "k", data: bytes = b"v", headers: dict[str, str] | None = None
) -> Message:
    """The consumer's message `sequence`, with `pending` still to come."""
    reply = (
        f"$JS.ACK.KV_v1_instances.reader.1.{STREAM_SEQUENCE + sequence}.{sequence}.1700000000000.{pending}"
    )
    return Message(f"$KV.v1_instances.{key}", reply, data, headers)


def heartbeat(last: int | None = None, *, stalled: str | None = None) -> Message:
    headers = {"Status": "100", "Description": "Idle Heartbeat"}
    if last is not None:
        headers["Nats-Last-Consumer"] = str(last)
        headers["Nats-Last-Stream"] = str(STREAM_SEQUENCE + last)
    if stalled is not None:
        headers["Nats-Consumer-Stalled"] = stalled
    return Message(INBOX, headers=headers)


def flow_control(reply: str) -> Message:
    return Message(INBOX, reply, headers={"Status": "100", "Description": "FlowControl Request"})


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def recover(self) -> None:
        self.reports.append(("recover",))

    def begin(self) -> None:
        self.reports.append(("begin",))

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self.reports += [("put", key, value) for key, value in entries]

    def delete(self, key: str, reason: RemovalReason) -> None:
        self.reports.append(("delete", key, reason))

    def keep(self, key: str) -> None:
        self.reports.append(("keep", key))

    def end(self) -> None:
        self.reports.append(("end",))

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self.reports.append(("stale", reason, error))

    def fail(self, error: DiscoveryError) -> None:
        self.reports.append(("fail", error))


PUT: Report = ("put", "k", b"v")
END: Report = ("end",)
CONFIRM: Report = ("confirm",)


class Rig:
    """A delivery and what it told."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.sink = Recorder()
        stream = Stream(JetStreamApi(Requester(Client())), "v1_instances", StreamOptions(), ServerTime())
        self.answers: list[str] = []
        self.delivery = Delivery(
            stream, "$KV.v1_instances.>", "reader", self.sink, self.wake, self.answers.append
        )

    @classmethod
    def synced(cls) -> Rig:
        """A rig whose snapshot was empty."""
        rig = cls()
        rig.delivery.expect(0)
        rig.sink.reports.clear()
        return rig

    def receive(self, message: Message) -> str | None:
        """Where the answer to this message went, if it was given one."""
        self.answers.clear()
        self.delivery.receive([as_tuple(message)])
        return self.answers[0] if self.answers else None

    def tell(self, *messages: Message) -> list[Report]:
        """What the sink hears of these messages."""
        before = len(self.sink.reports)
        for message in messages:
            self.delivery.confirmed = None
            self.receive(message)
            if self.delivery.confirmed is not None and self.sink.reports[-1:] != [END]:
                self.sink.reports.append(CONFIRM)
        return self.sink.reports[before:]


class TestSnapshot:
    async def test_an_empty_one_ends_at_once(self) -> None:
        rig = Rig()
        rig.delivery.expect(0)
        assert rig.sink.reports == [END]

    async def test_it_ends_with_the_last_message_that_was_counted(self) -> None:
        rig = Rig()
        rig.delivery.expect(2)
        assert rig.tell(message(1, 5)) == [PUT]
        assert rig.tell(message(2, 4)) == [PUT, END]

    async def test_it_ends_when_nothing_is_left_however_many_were_counted(self) -> None:
        rig = Rig()
        rig.delivery.expect(5)
        assert rig.tell(message(1, 1), message(2, 0)) == [PUT, PUT, END]

    async def test_messages_may_come_before_they_are_counted(self) -> None:
        rig = Rig()
        assert rig.tell(message(1, 2), message(2, 1)) == [PUT, PUT]
        rig.delivery.expect(2)
        assert rig.sink.reports == [PUT, PUT, END]

    @pytest.mark.parametrize("counted", [2, 3], ids=["all that were counted", "fewer"])
    async def test_all_of_them_may_and_then_it_ends(self, counted: int) -> None:
        rig = Rig()
        assert rig.tell(message(1, 1), message(2, 0)) == [PUT, PUT]
        rig.delivery.expect(counted)
        assert rig.sink.reports == [PUT, PUT, END]

    async def test_it_ends_only_once(self) -> None:
        rig = Rig()
        rig.delivery.expect(1)
        rig.tell(message(1, 0), message(2, 0))
        rig.delivery.expect(2)
        assert rig.sink.reports == [PUT, END, PUT, CONFIRM]

    async def test_what_comes_afterwards_confirms(self) -> None:
        rig = Rig.synced()
        assert rig.tell(message(1, 3), message(2, 2)) == [PUT, CONFIRM, PUT, CONFIRM]

    async def test_nothing_is_confirmed_before_its_end(self) -> None:
        rig = Rig()
        rig.delivery.expect(2)
        assert rig.tell(message(1, 1), heartbeat(1)) == [PUT]

    async def test_messages_that_went_away_are_asked_for(self) -> None:
        rig = Rig()
        rig.delivery.expect(3)
        rig.tell(message(1, 2))
        assert not rig.delivery.snapshot_is_quiet
        rig.wake.clear()
        rig.tell(heartbeat(1))
        assert rig.delivery.snapshot_is_quiet
        assert rig.wake.is_set()
        rig.delivery.expect(rig.delivery.received + 0)
        assert rig.sink.reports == [PUT, END]

    async def test_a_consumer_that_waits_for_us_is_not_quiet(self) -> None:
        rig = Rig()
        rig.delivery.expect(3)
        rig.tell(message(1, 2), heartbeat(1, stalled=STALLED))
        assert not rig.delivery.snapshot_is_quiet


class TestOrder:
    @pytest.mark.parametrize("next", [1, 3, 4])
    async def test_a_gap_or_a_repetition_is_a_doubt(self, next: int) -> None:
        rig = Rig.synced()
        rig.tell(message(1, 0))
        assert rig.delivery.resync is None
        rig.wake.clear()
        assert rig.tell(message(next, 0)) == []
        assert rig.delivery.resync is ResyncReason.GAP
        assert rig.wake.is_set()

    async def test_the_first_message_is_the_first(self) -> None:
        rig = Rig()
        assert rig.tell(message(2, 0)) == []
        assert rig.delivery.resync is ResyncReason.GAP

    async def test_a_gap_in_the_stream_is_none_in_the_consumer(self) -> None:
        rig = Rig.synced()
        reply = "$JS.ACK.KV_v1_instances.reader.1.{}.{}.1.0"
        for number, sequence in enumerate([7, 1000, 1001], 1):
            rig.tell(Message("$KV.v1_instances.k", reply.format(sequence, number)))
        assert rig.delivery.resync is None
        assert rig.delivery.received == 3

    async def test_a_heartbeat_that_tells_of_a_message_that_did_not_come_is_a_doubt(self) -> None:
        rig = Rig.synced()
        rig.tell(message(1, 0))
        rig.wake.clear()
        assert rig.tell(heartbeat(2)) == []
        assert rig.delivery.resync is ResyncReason.GAP
        assert rig.wake.is_set()

    @pytest.mark.parametrize("beat", [heartbeat(0), heartbeat()])
    async def test_a_heartbeat_that_tells_of_none_confirms(self, beat: Message) -> None:
        rig = Rig.synced()
        assert rig.tell(beat) == [CONFIRM]
        assert rig.delivery.resync is None

    @pytest.mark.parametrize("status", ["409", "404", "503"])
    async def test_the_end_of_the_consumer_is_a_doubt(self, status: str) -> None:
        rig = Rig.synced()
        gone = Message(INBOX, headers={"Status": status, "Description": "Consumer Deleted"})
        assert rig.tell(gone) == []
        assert rig.delivery.resync is ResyncReason.CONSUMER
        assert rig.wake.is_set()

    async def test_after_a_doubt_nothing_is_reported(self) -> None:
        rig = Rig()
        rig.delivery.expect(1)
        rig.tell(message(2, 0))
        assert rig.tell(message(1, 1), message(2, 0), heartbeat(2)) == []
        assert rig.receive(flow_control("$JS.FC.x")) is None

    async def test_after_the_end_nothing_is_reported(self) -> None:
        rig = Rig.synced()
        rig.delivery.ended = True
        assert rig.tell(message(1, 0), heartbeat(1)) == []
        assert rig.delivery.resync is None

    async def test_a_sink_that_breaks_its_word_is_found_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig.synced()
        error = RuntimeError("a sink never raises")

        def fail(entries: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(rig.sink, "put", fail)
            rig.tell(message(1, 0))
        assert rig.delivery.bug is error
        assert rig.wake.is_set()
        assert rig.tell(message(2, 0)) == []

    @given(lost=st.sets(st.integers(1, 8)), count=st.integers(1, 8))
    async def test_no_message_is_missed_without_a_doubt(self, lost: set[int], count: int) -> None:
        rig = Rig.synced()
        for number in range(1, count + 1):
            if number not in lost:
                rig.tell(message(number, 0, data=b"%d" % number))
        rig.tell(heartbeat(count))
        whole = min([count + 1, *lost]) - 1
        values = [report[2] for report in rig.sink.reports if report[0] == "put"]
        assert values == [b"%d" % number for number in range(1, whole + 1)]
        assert (rig.delivery.resync is None) == (whole == count)


class TestFlowControl:
    async def test_a_request_is_answered_on_its_subject(self) -> None:
        rig = Rig.synced()
        assert rig.receive(flow_control("$JS.FC.KV_v1_instances.reader.1")) == (
            "$JS.FC.KV_v1_instances.reader.1"
        )
        assert rig.sink.reports == []
        assert rig.delivery.resync is None

    async def test_a_stalled_heartbeat_is_answered_on_the_subject_it_names(self) -> None:
        rig = Rig()
        assert rig.receive(heartbeat(0, stalled=STALLED)) == STALLED
        assert rig.receive(heartbeat(0)) is None

    async def test_a_heartbeat_that_makes_no_sense_is_a_doubt(self) -> None:
        rig = Rig.synced()
        rig.delivery.receive(
            [(INBOX, "", {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "x"}, b"")]
        )
        assert rig.delivery.bug is None
        assert rig.delivery.resync is ResyncReason.GAP

    async def test_messages_are_not_answered(self) -> None:
        assert Rig().receive(message(1, 0)) is None

    async def test_everything_heard_counts_as_a_sign_of_life(self) -> None:
        for sign in (message(1, 0), heartbeat(0), flow_control("$JS.FC.x")):
            rig = Rig.synced()
            rig.delivery.heard = before = rig.delivery.heard - 1000.0
            rig.tell(sign)
            assert rig.delivery.heard > before + 999.0


class TestBatches:
    """One read of the socket brings many messages at once, cut anywhere."""

    KINDS = st.lists(
        st.sampled_from(["put", "delete", "forged", "heartbeat", "flow control", "lost"]), max_size=12
    )

    @given(kinds=KINDS, cuts=st.lists(st.integers(1, 12), max_size=6), counted=st.integers(0, 12))
    async def test_any_batches_tell_what_single_messages_tell(
        self, kinds: list[str], cuts: list[int], counted: int
    ) -> None:
        messages, number, lost = [], 0, 0
        for at, kind in enumerate(kinds):
            if kind == "heartbeat":
                messages.append(heartbeat(number))
            elif kind == "flow control":
                messages.append(flow_control(f"$JS.FC.{at}"))
            else:
                number += 1
                if kind == "lost":
                    lost += 1
                else:
                    headers = {"forged": {"Nats-Scheduler": "other"}, "delete": {"KV-Operation": "DEL"}}
                    messages.append(message(number, 9, f"k{at % 3}", b"%d" % at, headers.get(kind)))
        one, many = Rig(), Rig()
        for rig in (one, many):
            rig.delivery.expect(counted)
        for single in messages:
            one.delivery.receive([as_tuple(single)])
        rest = messages
        for cut in cuts:
            many.delivery.receive([as_tuple(each) for each in rest[:cut]])
            rest = rest[cut:]
        if rest:
            many.delivery.receive([as_tuple(each) for each in rest])
        assert many.delivery.resync == one.delivery.resync
        if lost and one.delivery.resync is not None:
            return  # of what comes with a gap nothing has to be told: a snapshot follows
        assert many.answers == one.answers
        assert many.delivery.received == one.delivery.received
        told = [[report for report in rig.sink.reports if report != END] for rig in (one, many)]
        assert told[0] == told[1]
        assert one.sink.reports.count(END) == many.sink.reports.count(END) <= 1


def as_tuple(message: Message) -> tuple[str, str, dict[str, str] | None, bytes]:
    return message.subject, message.reply, message.headers, message.data


class TestReports:
    OWN = "$NATSDISC.LEASE.v1_instances.ns.c.e.1"

    @pytest.mark.parametrize(
        ("headers", "report"),
        [
            (None, ("put", "ns.c.e.1", b"v")),
            ({"X": "y"}, ("put", "ns.c.e.1", b"v")),
            ({"KV-Operation": "DEL"}, ("delete", "ns.c.e.1", RemovalReason.UNREGISTERED)),
            ({"Nats-Marker-Reason": "MaxAge"}, ("delete", "ns.c.e.1", RemovalReason.EXPIRED)),
            (
                {"KV-Operation": "DEL", "Nats-Scheduler": OWN},
                ("delete", "ns.c.e.1", RemovalReason.EXPIRED),
            ),
            (
                {"KV-Operation": "DEL", "Nats-Scheduler": OWN, "Natsdisc-Reason": "unregistered"},
                ("delete", "ns.c.e.1", RemovalReason.UNREGISTERED),
            ),
            ({"KV-Operation": "DEL", "Nats-Scheduler": OWN + "0"}, ("keep", "ns.c.e.1")),
            ({"Nats-Scheduler": OWN}, ("keep", "ns.c.e.1")),
        ],
        ids=str,
    )
    async def test_a_message_is_a_value_a_removal_or_a_forgery(
        self, headers: dict[str, str] | None, report: Report
    ) -> None:
        rig = Rig.synced()
        assert rig.tell(message(1, 0, "ns.c.e.1", headers=headers)) == [report, CONFIRM]

    @pytest.mark.parametrize("status", ["100", "404", "409", "503", ""])
    async def test_a_stored_message_with_a_status_header_is_a_message(self, status: str) -> None:
        """Whoever may write one key must not end a watch: only the consumer speaks on its inbox."""
        rig = Rig()
        rig.delivery.expect(2)
        first = message(1, 1, headers={"Status": status, "Description": "Consumer Deleted"})
        assert rig.receive(first) is None
        assert rig.delivery.resync is None
        rig.tell(message(2, 0))
        assert rig.sink.reports == [PUT, PUT, END]


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("$JS.ACK.KV_v1_instances.reader.1.40.2.1700000000000.7", (2, 7)),
        ("$JS.ACK.hub.ACCOUNT.KV_v1_instances.reader.1.40.2.1700000000000.7.random", (2, 7)),
        ("$JS.ACK._.ACCOUNT.KV_v1_instances.reader.1.40.2.1700000000000.7", (2, 7)),
    ],
)
def test_an_ack_subject_of_any_server_is_read(reply: str, numbers: tuple[int, int]) -> None:
    assert _delivered(reply) == numbers
