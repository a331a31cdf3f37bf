"""The order of one consumer's messages: all of them in its order, or a reason to read everything again.

Nothing here waits or sends. A reader hands in what arrived and looks at what that means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from ... import log
from .. import ResyncReason, SignedValue, Sink
from .copy_check import CopyCheck
from .messages import SIGNATURE, Forged, removal
from .parser import Message
from .requester import Headers
from .stream import Stream

__all__ = ["Delivery"]

_log = log.logger(__name__)

_ACK_PREFIX = "$JS.ACK."
_FLOW_CONTROL_PREFIX = "$JS.FC."


class Delivery:
    """The messages of the consumer `consumer` on `stream`, in the consumer's order or not at all.

    `filter` is the consumer's filter, which ends with `>`. `sink` hears of entries and of the snapshot's end,
    `wake` is set when the reader should look at this object, `answer` sends an empty message to a subject,
    and `on_complete` is called at the end of the snapshot.

    Everybody who can make JetStream deliver to our inbox can send messages there. Only those are believed
    whose ack subject, which the server writes, names our consumer, and whose key matches the filter.
    """

    def __init__(
        self,
        stream: Stream,
        filter: str,
        consumer: str,
        sink: Sink,
        wake: asyncio.Event,
        answer: Callable[[str], None],
        on_complete: Callable[[], None] = lambda: None,
    ) -> None:
        self._subject_prefix = stream.subject_prefix
        self._lease_prefix = stream.lease_prefix
        self._filter = filter
        self._filter_prefix = filter.removesuffix(">")
        self._consumer = [stream.name, consumer]
        self._ack_prefix = f"{_ACK_PREFIX}{stream.name}.{consumer}."
        self._sink = sink
        self._wake = wake
        self._answer = answer
        self._on_complete = on_complete
        self._time = asyncio.get_running_loop().time
        self._expected: int | None = None
        self._left: int | None = None
        self._in_snapshot = True
        self.received = 0
        self.heard = self._time()
        self.confirmed: float | None = None
        self.resync: ResyncReason | None = None
        self.bug: Exception | None = None
        self.snapshot_is_quiet = False
        self.ended = False
        self.ignored = 0
        # With it the snapshot is held against the leader's subjects, and `settle` ends it if they differ.
        self.check: CopyCheck | None = None
        self.is_settling = False

    def expect(self, messages: int) -> None:
        """Let the snapshot end when `messages` have been delivered."""
        self._expected = messages
        self.heard = self._time()
        self._end_snapshot_at(self.received if self._left == 0 else messages)

    def settle(self, believed: Mapping[str, bytes]) -> None:
        """End a snapshot that differed from the leader's subjects, with these values after all."""
        self.check, self.is_settling = None, False
        skip = len(self._subject_prefix)
        if believed:
            self._sink.put([(subject[skip:], value) for subject, value in believed.items()])
        self._finish_snapshot()

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages as they came, and answer what flow control asks."""
        if self.ended or self.resync is not None or self.bug is not None:
            return
        try:
            for run in self._runs(messages):
                self._deliver(run)
        except Exception as error:
            self.bug = error
            self._wake.set()

    def _runs(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """Yield the messages of our consumer, as many as came in a row, and look at all others between."""
        run: list[Message] = []
        filter_prefix, ack_prefix = self._filter_prefix, self._ack_prefix
        for message in messages:
            # A stored message comes under its own subject, whatever headers somebody gave it.
            subject, reply, headers, _ = message
            if subject.startswith(filter_prefix) and (
                reply.startswith(ack_prefix) or self._is_from_our_consumer(reply)
            ):
                run.append(message)
                continue
            yield run
            run = []
            if self.resync is not None:
                return
            if reply.startswith(_ACK_PREFIX) or headers is None or "Status" not in headers:
                self._ignore(subject)
            else:
                self._control(headers, reply)
        yield run

    def _is_from_our_consumer(self, reply: str) -> bool:
        """Whether an ack subject with a domain and an account (ADR-15) names our consumer."""
        tokens = reply.split(".")
        if len(tokens) < 11 or tokens[:2] != ["$JS", "ACK"] or tokens[4:6] != self._consumer:
            return False
        self._ack_prefix = ".".join(tokens[:6]) + "."
        return True

    def _ignore(self, subject: str) -> None:
        if not self.ignored:
            _log.warning(
                "ignored a message under %r: it came to the inbox of the watch on %s, but not from its "
                "consumer; give every NATS user an inbox prefix of its own, see `natsdisc acl`",
                subject,
                self._filter,
                extra=log.fields("delivery_ignored", filter=self._filter),
            )
        self.ignored += 1

    def _deliver(self, run: Sequence[Message]) -> None:
        """Report messages that were delivered in a row, if none of them is missing."""
        if not run or self.resync is not None:
            return
        self.heard = self._time()
        # The server numbers what it sends in its order: with the first and the last, all are there.
        first, _ = _delivered(run[0][1])
        last, pending = _delivered(run[-1][1])
        if first != self.received + 1 or last - first + 1 != len(run):
            self._resync(ResyncReason.GAP)
            return
        self.received = last
        self._report(run)
        if self._in_snapshot:
            self._left = pending
            if self._expected is not None:
                self._end_snapshot_at(self.received if pending == 0 else self._expected)
        elif not self.is_settling:
            self.confirmed = self.heard

    def _report(self, run: Sequence[Message]) -> None:
        skip, check = len(self._subject_prefix), self.check
        values: list[tuple[str, bytes]] = []
        for subject, reply, headers, data in run:
            key = subject[skip:]
            why = removal(headers, self._lease_prefix + key) if headers is not None else None
            is_known = check is None or check.note(subject)
            if why is None:
                if headers is not None and (signature := headers.get(SIGNATURE)) is not None:
                    data = SignedValue(data, signature)
                if is_known or check is None or not check.suspect(subject, _stored(reply), data):
                    values.append((key, data))
                continue
            if check is not None:
                check.drop(subject)
            if values:
                self._sink.put(values)
                values = []
            if isinstance(why, Forged):
                self._sink.keep(key)
            else:
                self._sink.delete(key, why)
        if values:
            self._sink.put(values)

    def _control(self, headers: Headers, reply: str) -> None:
        self.heard = self._time()
        if headers["Status"] != "100":
            self._resync(ResyncReason.CONSUMER)
        elif reply:
            self._answer_flow_control(reply)
        elif headers.get("Nats-Last-Consumer", str(self.received)) != str(self.received):
            self._resync(ResyncReason.GAP)
        else:
            stalled = headers.get("Nats-Consumer-Stalled")
            if not self._in_snapshot:
                if not self.is_settling:
                    self.confirmed = self.heard
            elif stalled is None:
                self.snapshot_is_quiet = True
                self._wake.set()
            if stalled is not None:
                self._answer_flow_control(stalled)

    def _answer_flow_control(self, subject: str) -> None:
        # With any other reply subject, somebody else's message would be sent with our permissions.
        if subject.startswith(_FLOW_CONTROL_PREFIX):
            self._answer(subject)

    def _end_snapshot_at(self, messages: int | None) -> None:
        if self._in_snapshot and messages is not None and self.received >= messages:
            self._in_snapshot = False
            if self.check is not None and self.check.differs:
                self.is_settling = True
                self._wake.set()
            else:
                self.check = None
                self._finish_snapshot()

    def _finish_snapshot(self) -> None:
        self.confirmed = self.heard
        self._sink.end()
        self._on_complete()

    def _resync(self, reason: ResyncReason) -> None:
        self.resync = reason
        self._wake.set()


def _stored(reply: str) -> int:
    """Return the stream sequence of a `$JS.ACK` subject."""
    return int(reply.rsplit(".", 4)[1] if reply.count(".") == 8 else reply.split(".")[7])


def _delivered(reply: str) -> tuple[int, int]:
    """Consumer sequence and messages left, of a `$JS.ACK` subject (ADR-15)."""
    if reply.count(".") == 8:
        _, consumer_sequence, _, pending = reply.rsplit(".", 3)
    else:  # with a domain, an account, and perhaps a random token at the end
        consumer_sequence, _, pending = reply.split(".")[8:11]
    return int(consumer_sequence), int(pending)
