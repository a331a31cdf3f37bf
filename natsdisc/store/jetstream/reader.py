"""A watch on a stream that always converges: an ordered push consumer (ADR-17), made anew when in doubt.

A consumer with `last_per_subject` begins with a snapshot, and is then followed. That ends when something
may have cost a message: a gap in the consumer's sequence, silence where idle heartbeats should be, or a
reconnect. The next consumer then reports a whole new snapshot: the sink works out what changed.

What ends a watch: its connection was closed, or the server refused this user the very first consumer of it.
Everything else can be put right by somebody, and is waited for: the sink is stale meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from ... import log
from ...errors import (
    ClosedError,
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from ...model import RemovalReason
from .. import ResyncReason, Sink
from .api import ApiError, JetStreamApi
from .consumer import IDLE_HEARTBEAT_S, Consumer, open_consumer
from .copy_check import CopyCheck
from .delivery import Delivery
from .gate import SnapshotGate
from .leader_probe import LeaderProbe
from .requests import Backoff, delays, is_transient
from .stream import Stream

__all__ = ["OrderedReader"]

_log = log.logger(__name__)

# Two idle heartbeats lost in a row are silence.
_SILENCE = 2.0 * IDLE_HEARTBEAT_S
# After a break every watcher of a server comes back at once: each waits up to this long first.
_SPREAD = 0.25
# A server that does not answer is asked again after this at the latest, and so is one that has to be put
# right by somebody, or that only ever begins a snapshot.
_LONGEST_PAUSE, _LONGEST_PAUSE_FOR_OTHERS = 1.0, 5.0
# A consumer that was well for so long (seconds) makes the next pause short again.
_WELL = 10.0
# A replacement that could not be made is tried again after this (seconds).
_REPLACE_AGAIN = 5.0
_LOOK_TIMEOUT, _BUSY_TIMEOUT = 2.0, 15.0
# Seconds in which a copy may be behind its leader, and how many copies in a row may be found lacking entries.
_COPY_LAG, _MOST_WRONG_COPIES = 1.0, 3
# How long a close waits for the reader's task, each time that it is cancelled (seconds).
_CLOSE_PATIENCE_S = 0.2, 0.02, 0.02, 0.02, 0.02
# A task that ended although nobody closed it is started again after this (seconds).
_RESTART_AFTER = 0.5
# Without any sign of trouble the consumer is asked now and then whether everything arrived; and if anything
# has changed since, all is read again, the more rarely the more there is (seconds, and seconds an entry).
_CHECK_EVERY = 180.0
_READ_AGAIN_AFTER = 0.5

_REASONS = {
    ResyncReason.GAP: "messages are missing",
    ResyncReason.SILENCE: f"nothing was heard for {_SILENCE:g} s",
    ResyncReason.RECONNECT: "the connection broke",
    ResyncReason.CONSUMER: "the consumer ended",
    ResyncReason.LEADER: "the stream's leader does not reach the node that it is read from",
    ResyncReason.COPY: "the node that is read lacks entries that the stream's leader has",
    ResyncReason.CHECK: "the server has delivered something else than what arrived",
}


class OrderedReader:
    """Reports one filter of one stream to one sink until it is closed.

    `granted` says that this user was allowed such a consumer before, so that a refusal is waited out;
    with `patient=False` every refusal ends the reader.
    """

    def __init__(
        self,
        api: JetStreamApi,
        stream: Stream,
        tokens: str,
        sink: Sink,
        gate: SnapshotGate,
        *,
        granted: bool = False,
        patient: bool = True,
    ) -> None:
        self._api = api
        self._stream = stream
        self._filter = stream.subject_prefix + tokens
        self._sink = sink
        self._gate = gate
        self._granted, self._patient = granted, patient
        self._wake = asyncio.Event()
        self._breaks = 0
        self._loop = asyncio.get_running_loop()
        self._confirmed = _now()
        self._consumer: Consumer | None = None
        self._delivery: Delivery | None = None
        self._replica = LeaderProbe(stream, None)
        self._troubled = False
        self._content: tuple[int, int] | None = None
        self._last_sequence = 0
        self._absences = delays(first=0.1, longest=2.0)
        self._forget_listener = api.requester.on_break(self._wake.set)
        self._server_id: str | None = None
        self._leader: str | None = None
        self._wrong_copies = 0
        self._ended = False
        self.restarts = 0
        self._restarting: asyncio.TimerHandle | None = None
        self._task = self._start()

    @property
    def age(self) -> float:
        # A thread may ask, such as one that exports metrics.
        return self._loop.time() - self._last_confirmation()

    async def aclose(self) -> None:
        self._ended = True
        self._forget_listener()
        if self._restarting is not None:
            self._restarting.cancel()
        for patience in _CLOSE_PATIENCE_S:
            # nats-py waits for flushes that a dead connection never makes, and each swallows a cancellation.
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=patience)
            if self._task.done():
                break

    def _start(self) -> asyncio.Task[None]:
        self._restarting = None
        self._task = asyncio.create_task(self._run(), name=f"natsdisc-reader {self._filter}")
        self._task.add_done_callback(self._task_ended)
        return self._task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._ended:
            return
        self.restarts += 1
        _log.error(
            "the task that watches %s ended (%r); it is started again",
            self._filter,
            error,
            exc_info=error,
            extra=log.fields("task_ended", task=task.get_name(), error=repr(error), restarts=self.restarts),
        )
        self._loop.call_soon(self._report_restart)
        self._restarting = self._loop.call_later(_RESTART_AFTER, self._start)

    def _report_restart(self) -> None:
        if not self._ended:
            self._stale(ResyncReason.RESTART, DiscoveryError(f"watching {self._filter}: the task had ended"))

    async def _run(self) -> None:
        # What nobody answers is soon asked again; what somebody has to put right, not so soon.
        unanswered = Backoff(0.1, _LONGEST_PAUSE)
        unusable = Backoff(0.1, _LONGEST_PAUSE_FOR_OTHERS)
        while True:
            connected = False
            try:
                await self._api.requester.ready()
                connected = True
                self._breaks = self._api.requester.breaks
                begun = _now()
                reason = await self._pass()
            except ClosedError as error:
                self._fail(error)
                return
            except PermissionDeniedError as error:
                # The credentials were accepted once; without a connection the server refuses all of them.
                if connected and not (self._granted and self._patient):
                    self._fail(error)
                    return
                self._stale(ResyncReason.UNAVAILABLE, error)
                pause = unusable.next()
            except DiscoveryError as error:
                self._stale(ResyncReason.UNAVAILABLE, error)
                pause = (unanswered if is_transient(error) else unusable).next()
            except Exception as error:
                # A bug, ours or below: a watch that falls silent would be worse than one that begins again.
                self._report_bug(error)
                pause = unusable.next()
            else:
                self._troubled = reason is not None
                if reason is None:
                    continue
                self._stale(reason, StoreUnavailableError(f"watching {self._filter}: {_REASONS[reason]}"))
                if reason is ResyncReason.RECONNECT or _now() - begun > _WELL:
                    unanswered.reset()
                    unusable.reset()
                    pause = random.uniform(0, _SPREAD)  # noqa: S311 (spreads load)
                else:
                    pause = unusable.next()
            finally:
                await self._drop_consumer()
            await asyncio.sleep(pause)

    def _stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._troubled = True
        if isinstance(error, (PermissionDeniedError, UnsupportedServerError)):
            # The sink tells only of what began it, such as a broken connection.
            self._stream.reports.watches_wait(error)
        self._sink.stale(reason, error)

    def _fail(self, error: DiscoveryError) -> None:
        self._ended = True
        self._forget_listener()
        self._sink.fail(error)

    def _report_bug(self, error: Exception) -> None:
        self.restarts += 1
        _log.error(
            "watching %s broke: %r; it begins again",
            self._filter,
            error,
            exc_info=error,
            extra=log.fields("watch_broke", filter=self._filter, error=repr(error), restarts=self.restarts),
        )
        broken = DiscoveryError(f"watching {self._filter} broke: {error!r}")
        broken.__cause__ = error
        self._stale(ResyncReason.RESTART, broken)

    async def _pass(self) -> ResyncReason | None:
        """Open a consumer and follow it until something may be missing, or wait for a stream to be there.

        None when the stream may be there now. Raises DiscoveryError for what has to be waited for.
        """
        if await self._open():
            return await self._follow()
        await self._wait_for_stream()
        return None

    async def _open(self) -> bool:
        """Open a consumer, and report its snapshot instead of what the last one goes on to deliver.

        False when there is no stream, which is reported as empty. When this raises, the last consumer is
        still there.
        """
        fresh = await open_consumer(self._api, self._stream, self._filter, is_busy=lambda: self._gate.busy)
        self._granted = True
        if fresh is None:
            await self._drop_consumer()
            self._begin_snapshot(None)
            self._sink.end()
            self._confirmed = _now()
            return False
        try:
            pending = fresh.pending
            if pending == 0:
                await self._check_stream()
            replica = LeaderProbe(self._stream, fresh.node, troubled=self._troubled)
            # A node that is cut off has a snapshot too, of how things were.
            await replica.ask(self._patience)
            if not replica.is_reached:
                raise StoreUnavailableError(f"reading {self._filter}: {_REASONS[ResyncReason.LEADER]}")
            check = await self._copy_check(fresh, replica)
        except BaseException:
            await fresh.aclose()
            raise
        last = self._leave_consumer()
        self._consumer, self._replica, self._absences = fresh, replica, delays(first=0.1, longest=2.0)
        delivery = self._delivery = self._new_delivery(fresh.name)
        delivery.check = check
        try:
            self._begin_snapshot(replica.leader)
            fresh.start(delivery.receive)
            delivery.expect(pending)
        finally:
            if last is not None:
                await last.aclose()
        return True

    def _begin_snapshot(self, leader: str | None) -> None:
        """Begin to report a snapshot, and say if the owners have had a reason to register again."""
        server_id = self._api.requester.server_id
        is_new_server = self._server_id is not None and server_id != self._server_id
        is_new_leader = None not in (self._leader, leader) and leader != self._leader
        self._server_id, self._leader = server_id, leader or self._leader
        if is_new_server or is_new_leader:
            self._sink.recover()
        self._sink.begin()

    async def _copy_check(self, consumer: Consumer, replica: LeaderProbe) -> CopyCheck | None:
        """Ask the leader for its subjects, if the consumer lies on another node's copy."""
        if consumer.node is None or replica.leader in (None, consumer.node) or self._stream.info_denied:
            return None
        try:
            return CopyCheck(*await self._stream.leader_subjects(self._filter))
        except PermissionDeniedError:
            self._stream.deny_info()
            return None

    async def _settle(self, delivery: Delivery, consumer: Consumer) -> ResyncReason | None:
        """Decide about a snapshot that differs from what the leader has."""
        check = delivery.check
        assert check is not None
        deadline = _now() + _COPY_LAG
        while True:
            leader, _ = await self._stream.leader_subjects(self._filter)
            believed, extra, missing = check.compare(leader)
            # A copy may be behind for a moment.
            if not missing or _now() > deadline or delivery.resync is not None:
                break
            await asyncio.sleep(_COPY_LAG / 5)
        if delivery.resync is not None:
            return delivery.resync
        if extra or missing:
            self._stream.note_wrong_copy(consumer.node or "", len(extra), len(missing))
        if missing and self._wrong_copies < _MOST_WRONG_COPIES:
            self._wrong_copies += 1
            return ResyncReason.COPY
        self._wrong_copies = 0
        delivery.settle(believed)
        return None

    def _new_delivery(self, consumer: str) -> Delivery:
        def answer(subject: str) -> None:
            publish = self._api.requester.publish_soon
            if delivery.confirmed is None:  # in the snapshot
                self._gate.request(delivery, lambda: publish(subject))
            else:
                publish(subject)

        def ended() -> None:
            self._gate.leave(delivery)
            self._wake.set()

        delivery = Delivery(
            self._stream, self._filter, consumer, _Reports(self._sink, ended), self._wake, answer
        )
        return delivery

    def _leave_consumer(self) -> Consumer | None:
        """Report no more of the consumer, and return it to be closed."""
        self._confirmed = self._last_confirmation()
        if self._delivery is not None:
            self._delivery.ended = True
            self._gate.leave(self._delivery)
            self._delivery = None
        consumer, self._consumer = self._consumer, None
        return consumer

    async def _drop_consumer(self) -> None:
        consumer = self._leave_consumer()
        if consumer is not None:
            await consumer.aclose()

    def _last_confirmation(self) -> float:
        delivery = self._delivery
        if delivery is None or delivery.confirmed is None:
            return self._confirmed
        # What comes from a node that is cut off from the stream confirms nothing.
        return max(self._confirmed, min(delivery.confirmed, self._replica.confirmed))

    @property
    def _patience(self) -> float:
        """Seconds to wait for an answer: it may stand behind megabytes of a large snapshot."""
        return _BUSY_TIMEOUT if self._gate.busy else _LOOK_TIMEOUT

    async def _follow(self) -> ResyncReason | None:
        check_at, begun = _next_check(), _now()
        while True:
            delivery, consumer, replica = self._delivery, self._consumer, self._replica
            assert delivery is not None
            assert consumer is not None
            self._wake.clear()
            if not self._api.requester.up or self._api.requester.breaks != self._breaks:
                return ResyncReason.RECONNECT
            if delivery.bug is not None:
                raise delivery.bug
            if delivery.resync is not None:
                return delivery.resync
            if delivery.is_settling:
                reason = await self._settle(delivery, consumer)
                if reason is not None:
                    return reason
                continue
            # While a large snapshot comes, heartbeats stand behind megabytes of it.
            silence = _now() - max(delivery.heard, self._gate.heard)
            if silence > _SILENCE:
                return ResyncReason.SILENCE
            if replica.is_cut_off:
                return ResyncReason.LEADER
            if _now() > replica.look_again_at:
                if await self._replace():
                    check_at, begun = _next_check(), _now()
                else:
                    replica.look_again_at = _now() + _REPLACE_AGAIN
                continue
            if _now() > replica.ask_at:
                await replica.ask(self._patience)
                continue
            if delivery.snapshot_is_quiet or _now() > check_at:
                check_at = _next_check()
                if not await self._check(delivery, consumer):
                    return ResyncReason.CHECK
                read_again_at = begun + max(_CHECK_EVERY / 2, _READ_AGAIN_AFTER * delivery.received)
                if _now() > read_again_at and await self._has_changed() and await self._replace():
                    begun = _now()
                continue
            with suppress(TimeoutError):
                until_silence = _SILENCE - silence + IDLE_HEARTBEAT_S / 10
                until_next = min(replica.ask_at, replica.look_again_at, check_at) - _now()
                async with asyncio.timeout(min(until_silence, until_next)):
                    await self._wake.wait()

    async def _replace(self) -> bool:
        """Read everything again by a new consumer; False if that cannot be made now, and the last one stays.

        The last one is read until the new one is there: nothing is stale meanwhile.
        """
        self._troubled = False
        try:
            if not await self._open():
                raise StoreUnavailableError(f"watching {self._filter}: the stream went away")
        except StoreUnavailableError:
            if self._consumer is None:
                raise
            return False
        return True

    async def _check(self, delivery: Delivery, consumer: Consumer) -> bool:
        """Ask what the consumer has delivered, and compare; False if that is not what arrived.

        A snapshot needs it when messages went away after they were counted, and so never come.
        """
        was_quiet, delivery.snapshot_is_quiet = delivery.snapshot_is_quiet, False
        question = f"CONSUMER.INFO.{self._stream.name}.{consumer.name}"
        try:
            info = await self._api.call(question)
        except ApiError:
            return False
        except PermissionDeniedError:
            if was_quiet:
                raise  # there is no other way to know whether the snapshot is complete
            return True  # this user may not ask, and goes without
        with self._api.understanding(question):
            pending, delivered = int(info["num_pending"]), int(info["delivered"]["consumer_seq"])
            self._last_sequence = int(info["delivered"]["stream_seq"])
        if was_quiet:
            delivery.expect(delivery.received + pending)
        # What was delivered before the answer was written has arrived before the answer.
        return delivered <= delivery.received

    async def _has_changed(self) -> bool:
        """Whether anything was written below the filter, or went from it, since this was last asked.

        The stream's own last sequence says less: each renewal of a lease changes it.
        """
        if self._stream.info_denied:
            return True
        try:
            count = await self._stream.count(self._filter, self._patience)
        except PermissionDeniedError:
            self._stream.deny_info()
            return True
        except (StoreUnavailableError, ApiError):
            return False  # the watch itself will tell what is wrong
        content = count, self._last_sequence
        before, self._content = self._content, content
        return content != before

    async def _wait_for_stream(self) -> None:
        """Until somebody makes the stream, or some time has passed."""
        advisory = f"$JS.EVENT.ADVISORY.STREAM.CREATED.{self._stream.name}"
        unsubscribe = await self._api.requester.subscribe(advisory, self._wake_up)
        try:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(next(self._absences)):
                    await self._wake.wait()
        finally:
            await unsubscribe()

    def _wake_up(self, *_: object) -> None:
        self._wake.set()

    async def _check_stream(self) -> None:
        """An empty bucket looks like a stream that is no bucket: raise UnsupportedServerError for that."""
        if self._stream.info_denied:
            return
        try:
            if await self._stream.look(self._patience):
                self._stream.check(only_read=True)
        except PermissionDeniedError:
            self._stream.deny_info()


class _Reports:
    """A sink that also tells when the snapshot is complete."""

    def __init__(self, sink: Sink, ended: Callable[[], None]) -> None:
        self._sink, self._ended = sink, ended

    def recover(self) -> None:
        self._sink.recover()

    def begin(self) -> None:
        self._sink.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._sink.put(entries)

    def delete(self, key: str, reason: RemovalReason) -> None:
        self._sink.delete(key, reason)

    def keep(self, key: str) -> None:
        self._sink.keep(key)

    def end(self) -> None:
        self._sink.end()
        self._ended()

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._sink.stale(reason, error)

    def fail(self, error: DiscoveryError) -> None:
        self._sink.fail(error)


def _next_check() -> float:
    return _now() + _CHECK_EVERY * random.uniform(0.5, 1.5)  # noqa: S311 (spreads load)


def _now() -> float:
    return asyncio.get_running_loop().time()
