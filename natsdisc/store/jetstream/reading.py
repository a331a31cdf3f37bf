"""One consumer that a watch reads from: opened, judged, compared with the stream's leader, and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...errors import PermissionDeniedError, StoreUnavailableError
from .. import ResyncReason, Sink
from .api import ApiError, JetStreamApi
from .consumer import Consumer, open_consumer
from .copy_check import CopyCheck
from .delivery import Delivery
from .gate import SnapshotGate
from .leader_probe import LeaderProbe
from .stream import Stream

__all__ = ["Place", "Reading", "open_reading"]

_LOOK_TIMEOUT_S, _BUSY_TIMEOUT_S = 2.0, 15.0
# Seconds in which a copy may be behind its leader.
_COPY_LAG_S = 1.0


class Place:
    """The reading of one watch: one filter of one stream, through the gate of one connection."""

    def __init__(self, api: JetStreamApi, stream: Stream, tokens: str, gate: SnapshotGate) -> None:
        self.api = api
        self.stream = stream
        self.filter = stream.subject_prefix + tokens
        self.gate = gate

    @property
    def patience_s(self) -> float:
        """Seconds to wait for an answer: it may stand behind megabytes of a large snapshot."""
        return _BUSY_TIMEOUT_S if self.gate.busy else _LOOK_TIMEOUT_S


class Reading:
    """A consumer, the order of its messages, and the probe of the node that it lies on."""

    def __init__(
        self, place: Place, consumer: Consumer, probe: LeaderProbe, sink: Sink, wake: asyncio.Event
    ) -> None:
        self.consumer = consumer
        self.probe = probe
        self.last_sequence = 0
        self._place = place
        self._wake = wake
        self.delivery = Delivery(
            place.stream, place.filter, consumer.name, sink, wake, self._answer, self._complete
        )

    @property
    def confirmed(self) -> float | None:
        """When it was last certain that nothing was missed (loop's clock); None in the first snapshot."""
        if self.delivery.confirmed is None:
            return None
        # A message from a node that is cut off from the stream confirms nothing.
        return min(self.delivery.confirmed, self.probe.confirmed)

    def start(self) -> None:
        """Report what came until now, and all that comes from now on."""
        self.consumer.start(self.delivery.receive)
        self.delivery.expect(self.consumer.pending)

    def leave(self) -> None:
        """Report nothing more."""
        self.delivery.ended = True
        self._place.gate.leave(self.delivery)

    async def aclose(self) -> None:
        """End the consumer."""
        self.leave()
        await self.consumer.aclose()

    async def compare_with_leader(self) -> None:
        """Let the snapshot be held against the leader's subjects, if it lies on another node's copy."""
        stream, leader = self._place.stream, self.probe.leader
        if self.consumer.node is None or leader in (None, self.consumer.node) or stream.info_denied:
            return
        try:
            self.delivery.check = CopyCheck(*await stream.leader_subjects(self._place.filter))
        except PermissionDeniedError:
            stream.deny_info()

    async def settle(self, *, believe: bool) -> ResyncReason | None:
        """Decide about a snapshot that differs from what the leader has.

        Without `believe`, a copy that lacks entries is a reason to read another one.
        """
        stream, delivery, check = self._place.stream, self.delivery, self.delivery.check
        assert check is not None
        deadline = _now() + _COPY_LAG_S
        while True:
            leader, _ = await stream.leader_subjects(self._place.filter)
            believed, extra, missing = check.compare(leader)
            # A copy may be behind for a moment.
            if not missing or _now() > deadline or delivery.resync is not None:
                break
            await asyncio.sleep(_COPY_LAG_S / 5)
        if delivery.resync is not None:
            return delivery.resync
        if extra or missing:
            stream.note_wrong_copy(self.consumer.node or "", len(extra), len(missing))
        if missing and not believe:
            return ResyncReason.COPY
        delivery.settle(believed)
        return None

    async def check(self) -> bool:
        """Ask what the consumer has delivered, and compare; False if that is not what arrived.

        A snapshot needs it when messages went away after they were counted, and so never come.
        """
        api, delivery = self._place.api, self.delivery
        was_quiet, delivery.snapshot_is_quiet = delivery.snapshot_is_quiet, False
        question = f"CONSUMER.INFO.{self._place.stream.name}.{self.consumer.name}"
        try:
            info = await api.call(question)
        except ApiError:
            return False
        except PermissionDeniedError:
            if was_quiet:
                raise  # there is no other way to know whether the snapshot is complete
            return True  # this user may not ask, and goes without
        with api.understanding(question):
            pending, delivered = int(info["num_pending"]), int(info["delivered"]["consumer_seq"])
            self.last_sequence = int(info["delivered"]["stream_seq"])
        if was_quiet:
            delivery.expect(delivery.received + pending)
        # Messages that were delivered before the answer was written arrive before the answer.
        return delivered <= delivery.received

    async def content(self) -> tuple[int, int] | None:
        """Return the number of subjects and the last sequence below the filter; None if that cannot be told.

        The stream's own last sequence says less: each renewal of a lease changes it.
        """
        stream = self._place.stream
        if stream.info_denied:
            return None
        try:
            return await stream.count(self._place.filter, self._place.patience_s), self.last_sequence
        except PermissionDeniedError:
            stream.deny_info()
            return None

    def _answer(self, subject: str) -> None:
        publish: Callable[[str], None] = self._place.api.requester.publish_soon
        if self.delivery.confirmed is None:  # in the snapshot
            self._place.gate.request(self.delivery, lambda: publish(subject))
        else:
            publish(subject)

    def _complete(self) -> None:
        self._place.gate.leave(self.delivery)
        self._wake.set()


async def open_reading(place: Place, sink: Sink, wake: asyncio.Event, *, troubled: bool) -> Reading | None:
    """Return a reading of `place` that has not started; None when there is no stream.

    `troubled` says that something was wrong a moment ago, so the cluster may still be catching up.
    Raises what `open_consumer` raises, and StoreUnavailableError for a node that is cut off from the stream.
    """
    consumer = await open_consumer(place.api, place.stream, place.filter, is_busy=lambda: place.gate.busy)
    if consumer is None:
        return None
    try:
        if consumer.pending == 0:
            await _check_stream(place)
        probe = LeaderProbe(place.stream, consumer.node, troubled=troubled)
        # A node that is cut off has a snapshot too, of how things were.
        await probe.ask(place.patience_s)
        if not probe.is_reached:
            raise StoreUnavailableError(
                f"could not watch {place.filter}: the stream's leader does not reach the node "
                f"{consumer.node}, where the consumer lies; another one is made"
            )
        reading = Reading(place, consumer, probe, sink, wake)
        await reading.compare_with_leader()
    except BaseException:
        await consumer.aclose()
        raise
    return reading


async def _check_stream(place: Place) -> None:
    """Raise UnsupportedServerError for a stream that is no bucket: it looks like an empty one."""
    if place.stream.info_denied:
        return
    try:
        if await place.stream.look(place.patience_s):
            place.stream.check(only_read=True)
    except PermissionDeniedError:
        place.stream.deny_info()


def _now() -> float:
    return asyncio.get_running_loop().time()
