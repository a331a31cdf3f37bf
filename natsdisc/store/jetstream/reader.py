"""A watch on a stream that always converges: an ordered push consumer (ADR-17), made anew when in doubt.

A consumer with `last_per_subject` begins with a snapshot, and is then followed. That ends when something
may have cost a message: a gap in the consumer's sequence, silence where idle heartbeats should be, or a
reconnect. The next consumer then reports a whole new snapshot: the sink works out what changed.

A watch ends when its connection was closed, or when the server refused its very first consumer.
Everything else can be put right by somebody, and is waited for: the sink is stale meanwhile.
"""

from __future__ import annotations

import asyncio
import random

from ... import log
from ...errors import (
    ClosedError,
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from .. import ResyncReason, Sink
from .api import JetStreamApi
from .following import SILENCE_S, Following
from .gate import SnapshotGate
from .reading import Place
from .requests import Backoff, is_transient
from .stream import Stream

__all__ = ["OrderedReader"]

_log = log.logger(__name__)

# After a break every watcher of a server comes back at once: each waits up to this long first.
_SPREAD = 0.25
# A server that does not answer is asked again after this at the latest, and so is one that has to be put
# right by somebody, or that only ever begins a snapshot.
_LONGEST_PAUSE, _LONGEST_PAUSE_FOR_OTHERS = 1.0, 5.0
# A consumer that was well for so long (seconds) makes the next pause short again.
_WELL = 10.0
# How long a close waits for the reader's task, each time that it is cancelled (seconds).
_CLOSE_PATIENCE_S = 0.2, 0.02, 0.02, 0.02, 0.02
# A task that ended although nobody closed it is started again after this (seconds).
_RESTART_AFTER = 0.5

_REASONS = {
    ResyncReason.GAP: "messages are missing",
    ResyncReason.SILENCE: f"nothing was heard for {SILENCE_S:g} s",
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
        self._place = Place(api, stream, tokens, gate)
        self._requester = api.requester
        self._sink = sink
        self._patient = patient
        wake = asyncio.Event()
        self._following = Following(self._place, sink, wake)
        self._following.granted = granted
        self._loop = asyncio.get_running_loop()
        self._forget_listener = self._requester.on_break(wake.set)
        self._ended = False
        self.restarts = 0
        self._restarting: asyncio.TimerHandle | None = None
        self._task = self._start()

    @property
    def age(self) -> float:
        # A thread may ask, such as one that exports metrics.
        return self._loop.time() - self._following.confirmed

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
        self._task = asyncio.create_task(self._run(), name=f"natsdisc-reader {self._place.filter}")
        self._task.add_done_callback(self._task_ended)
        return self._task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._ended:
            return
        self.restarts += 1
        _log.error(
            "the task that watches %s ended (%r); it is started again",
            self._place.filter,
            error,
            exc_info=error,
            extra=log.fields("task_ended", task=task.get_name(), error=repr(error), restarts=self.restarts),
        )
        self._loop.call_soon(self._report_restart)
        self._restarting = self._loop.call_later(_RESTART_AFTER, self._start)

    def _report_restart(self) -> None:
        if not self._ended:
            self._stale(
                ResyncReason.RESTART, DiscoveryError(f"watching {self._place.filter}: the task had ended")
            )

    async def _run(self) -> None:
        # A question without an answer is soon asked again; what somebody has to put right, not so soon.
        unanswered = Backoff(0.1, _LONGEST_PAUSE)
        unusable = Backoff(0.1, _LONGEST_PAUSE_FOR_OTHERS)
        while True:
            connected = False
            try:
                await self._requester.ready()
                connected = True
                begun = _now()
                reason = await self._following.run()
            except ClosedError as error:
                self._fail(error)
                return
            except PermissionDeniedError as error:
                # The credentials were accepted once; without a connection the server refuses all of them.
                if connected and not (self._following.granted and self._patient):
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
                self._following.troubled = reason is not None
                if reason is None:
                    continue
                self._stale(
                    reason, StoreUnavailableError(f"watching {self._place.filter}: {_REASONS[reason]}")
                )
                if reason is ResyncReason.RECONNECT or _now() - begun > _WELL:
                    unanswered.reset()
                    unusable.reset()
                    pause = random.uniform(0, _SPREAD)  # noqa: S311 (spreads load)
                else:
                    pause = unusable.next()
            finally:
                await self._following.drop()
            await asyncio.sleep(pause)

    def _stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._following.troubled = True
        if isinstance(error, (PermissionDeniedError, UnsupportedServerError)):
            # The sink tells only of what began it, such as a broken connection.
            self._place.stream.reports.watches_wait(error)
        self._sink.stale(reason, error)

    def _fail(self, error: DiscoveryError) -> None:
        self._ended = True
        self._forget_listener()
        self._sink.fail(error)

    def _report_bug(self, error: Exception) -> None:
        self.restarts += 1
        _log.error(
            "watching %s broke: %r; it begins again",
            self._place.filter,
            error,
            exc_info=error,
            extra=log.fields(
                "watch_broke", filter=self._place.filter, error=repr(error), restarts=self.restarts
            ),
        )
        broken = DiscoveryError(f"watching {self._place.filter} broke: {error!r}")
        broken.__cause__ = error
        self._stale(ResyncReason.RESTART, broken)


def _now() -> float:
    return asyncio.get_running_loop().time()
