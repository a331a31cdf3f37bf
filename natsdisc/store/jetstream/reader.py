"""A watch on a stream that always converges: an ordered push consumer (ADR-17), made anew after any doubt.

A pass makes one ephemeral consumer with `last_per_subject`, so it begins with a snapshot, and follows it. It
ends when something may have cost a message: a gap in the consumer's sequence, silence where idle heartbeats
should be, or a reconnect. The next pass then reports a whole new snapshot: the sink works out what changed.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import suppress

from ...errors import DiscoveryError, PermissionDeniedError, StoreUnavailableError, UnsupportedServerError
from .. import Doubt, Sink
from .api import (
    JETSTREAM_PATIENCE,
    STREAM_NOT_FOUND,
    ApiError,
    JetStreamApi,
    NoJetStreamError,
)
from .backoff import delays
from .delivery import Delivery
from .replica import Replica
from .stream import Stream

__all__ = ["OrderedReader"]

# The server says so when it has nothing to say. Two lost in a row are silence.
_IDLE_HEARTBEAT = 1.5
_SILENCE = 2.0 * _IDLE_HEARTBEAT
# The server removes a consumer that nobody listens to after this, should we die before we can.
_INACTIVE_THRESHOLD = 10.0
# After a break every watcher of a server comes back at once: each waits up to this long first.
_SPREAD = 0.25
# A server that does not answer is asked again after this at the latest.
_LONGEST_PAUSE = 1.0
_CREATE_TIMEOUT = 2.0
# Without any sign of trouble the consumer is asked now and then whether everything arrived; and if anything
# has changed since, all is read again, the more rarely the more there is (seconds, and seconds an entry).
_CHECK_EVERY = 180.0
_READ_AGAIN_AFTER = 0.5
# Seconds in which a reader that is closed tells the server; then it goes without.
_CLOSE_PATIENCE = 0.2, 0.02, 0.02, 0.02, 0.02
_NS = 1_000_000_000

_DOUBTS = {
    Doubt.GAP: "messages are missing",
    Doubt.SILENCE: f"nothing was heard for {_SILENCE:g} s",
    Doubt.RECONNECT: "the connection broke",
    Doubt.CONSUMER: "the consumer ended",
    Doubt.LEADER: "the stream's leader does not reach the node that it is read from",
    Doubt.CHECK: "the server has delivered something else than what arrived",
}


class OrderedReader:
    """Reports one filter of one stream to one sink until it is closed."""

    def __init__(self, api: JetStreamApi, stream: Stream, tokens: str, sink: Sink) -> None:
        self._api = api
        self._stream = stream
        self._filter = stream.subject_prefix + tokens
        self._sink = sink
        self._wake = asyncio.Event()
        self._breaks = 0
        self._loop = asyncio.get_running_loop()
        self._confirmed = _now()
        self._delivery: Delivery | None = None
        self._replica = Replica(stream, None)
        self._troubled = False
        self._content: tuple[int, int] | None = None
        self._seen_stream = False
        self._absences = delays(first=0.1, longest=2.0)
        self._forget_listener = api.link.on_break(self._wake.set)
        self._task = asyncio.create_task(self._run(), name=f"natsdisc-reader {self._filter}")

    @property
    def age(self) -> float:
        # A thread may ask, such as one that exports metrics.
        return self._loop.time() - self._last_confirmation()

    async def aclose(self) -> None:
        self._forget_listener()
        for patience in _CLOSE_PATIENCE:
            # nats-py waits for flushes that a dead connection never makes, and each swallows a cancellation.
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=patience)
            if self._task.done():
                break

    async def _run(self) -> None:
        started = _now()
        pauses = delays(first=0.1, longest=_LONGEST_PAUSE)
        while True:
            try:
                await self._api.link.ready()
                self._breaks = self._api.link.breaks
                doubt = await self._pass()
            except StoreUnavailableError as error:
                never_seen = isinstance(error, NoJetStreamError) and not self._seen_stream
                if never_seen and _now() - started > JETSTREAM_PATIENCE:
                    self._sink.fail(error)
                    return
                self._troubled = True
                self._sink.stale(Doubt.UNAVAILABLE, error)
                await asyncio.sleep(next(pauses))
            except DiscoveryError as error:
                self._sink.fail(error)
                return
            except Exception as error:
                # A bug, ours or below: a watch that falls silent would be worse than one that ends.
                broken = DiscoveryError(f"watching {self._filter} broke: {error!r}")
                broken.__cause__ = error
                self._sink.fail(broken)
                return
            else:
                pauses = delays(first=0.1, longest=_LONGEST_PAUSE)
                self._troubled = doubt is not None
                if doubt is not None:
                    explained = StoreUnavailableError(f"watching {self._filter}: {_DOUBTS[doubt]}")
                    self._sink.stale(doubt, explained)
                    await asyncio.sleep(random.uniform(0, _SPREAD))  # noqa: S311 (spreads load)

    async def _pass(self) -> Doubt | None:
        """Make a consumer and follow it until there is a doubt, or wait for a stream that is not there.

        Without a doubt it is time for a new pass: the stream may be there, the cluster is calm again, or
        everything was read long ago.

        Raises what cannot be repaired, and StoreUnavailableError for what can.
        """
        name = secrets.token_hex(11)
        inbox = self._api.link.new_inbox()
        delivery = self._delivery = Delivery(
            self._stream, self._filter, name, self._sink, self._wake, self._api.link.publish_soon
        )
        unsubscribe = await self._api.link.subscribe(inbox, delivery.receive)
        try:
            self._sink.begin()
            pending = await self._create_consumer(name, inbox)
            if pending is None:
                self._sink.end()
                self._confirmed = _now()
                await self._wait_for_stream()
                return None
            self._seen_stream = True
            self._absences = delays(first=0.1, longest=2.0)
            # A node that is cut off has a snapshot too, of how things were.
            await self._replica.ask()
            if not self._replica.is_reached:
                raise StoreUnavailableError(f"reading {self._filter}: {_DOUBTS[Doubt.LEADER]}")
            delivery.expect(pending)
            return await self._follow(delivery, name)
        finally:
            delivery.ended = True
            self._confirmed = self._last_confirmation()
            await unsubscribe()
            await self._api.link.publish(f"$JS.API.CONSUMER.DELETE.{self._stream.name}.{name}")

    def _last_confirmation(self) -> float:
        delivery = self._delivery
        if delivery is None or delivery.confirmed is None:
            return self._confirmed
        # What comes from a node that is cut off from the stream confirms nothing.
        return max(self._confirmed, min(delivery.confirmed, self._replica.confirmed))

    async def _follow(self, delivery: Delivery, name: str) -> Doubt | None:
        check_at, begun = _next_check(), _now()
        while True:
            self._wake.clear()
            if not self._api.link.up or self._api.link.breaks != self._breaks:
                return Doubt.RECONNECT
            if delivery.bug is not None:
                raise delivery.bug
            if delivery.doubt is not None:
                return delivery.doubt
            silence = _now() - delivery.heard
            if silence > _SILENCE:
                return Doubt.SILENCE
            if self._replica.is_deaf:
                return Doubt.LEADER
            if _now() > self._replica.look_again_at:
                return None
            if _now() > self._replica.ask_at:
                await self._replica.ask()
                continue
            if delivery.snapshot_is_quiet or _now() > check_at:
                check_at = _next_check()
                if not await self._check(delivery, name):
                    return Doubt.CHECK
                read_again_at = begun + max(_CHECK_EVERY / 2, _READ_AGAIN_AFTER * delivery.received)
                if _now() > read_again_at and await self._has_changed():
                    return None
                continue
            with suppress(TimeoutError):
                until_silence = _SILENCE - silence + _IDLE_HEARTBEAT / 10
                until_next = min(self._replica.ask_at, self._replica.look_again_at, check_at) - _now()
                async with asyncio.timeout(min(until_silence, until_next)):
                    await self._wake.wait()

    async def _check(self, delivery: Delivery, name: str) -> bool:
        """Ask what the consumer has delivered, and compare; False if that is not what arrived.

        A snapshot needs it when messages went away after they were counted, and so never come.
        """
        was_quiet, delivery.snapshot_is_quiet = delivery.snapshot_is_quiet, False
        try:
            info = await self._api.call(f"CONSUMER.INFO.{self._stream.name}.{name}")
        except ApiError:
            return False
        except PermissionDeniedError:
            if was_quiet:
                raise  # there is no other way to know whether the snapshot is complete
            return True  # this user may not ask, and goes without
        if was_quiet:
            delivery.expect(delivery.received + int(info["num_pending"]))
        # What was delivered before the answer was written has arrived before the answer.
        return int(info["delivered"]["consumer_seq"]) <= delivery.received

    async def _has_changed(self) -> bool:
        """Whether anything was written to the stream, or went from it, since this was last asked."""
        if self._stream.is_hidden:
            return True
        try:
            content = await self._stream.content()
        except PermissionDeniedError:
            self._stream.is_hidden = True
            return True
        except (StoreUnavailableError, ApiError):
            return False  # the watch itself will tell what is wrong
        before, self._content = self._content, content
        return content != before

    async def _wait_for_stream(self) -> None:
        """Until somebody makes the stream, or some time has passed."""
        advisory = f"$JS.EVENT.ADVISORY.STREAM.CREATED.{self._stream.name}"
        unsubscribe = await self._api.link.subscribe(advisory, self._wake_up)
        try:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(next(self._absences)):
                    await self._wake.wait()
        finally:
            await unsubscribe()

    def _wake_up(self, *_: object) -> None:
        self._wake.set()

    async def _create_consumer(self, name: str, inbox: str) -> int | None:
        """How many messages the snapshot has; None when there is no stream."""
        config = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "filter_subject": self._filter,
            "flow_control": True,
            "idle_heartbeat": int(_IDLE_HEARTBEAT * _NS),
            "inactive_threshold": int(_INACTIVE_THRESHOLD * _NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        # The filter stands in the subject, so that permissions can confine a reader to a namespace.
        subject = f"CONSUMER.CREATE.{self._stream.name}.{name}.{self._filter}"
        try:
            # A request that finds no leader is dropped in silence: ask again soon.
            info = await self._api.call(
                subject, {"stream_name": self._stream.name, "config": config}, timeout=_CREATE_TIMEOUT
            )
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            if error.code >= 500:
                raise StoreUnavailableError(str(error)) from error
            raise UnsupportedServerError(f"cannot watch {self._filter}: {error}") from error
        node = (info.get("cluster") or {}).get("leader")
        self._replica = Replica(self._stream, node, troubled=self._troubled)
        pending = int(info["num_pending"])
        if pending == 0:
            await self._check_stream()
        return pending

    async def _check_stream(self) -> None:
        """An empty bucket looks like a stream that is no bucket: raise UnsupportedServerError for that."""
        if self._stream.is_hidden:
            return
        try:
            if await self._stream.look(_CREATE_TIMEOUT):
                self._stream.check(only_read=True)
        except PermissionDeniedError:
            # This user may not ask; it is not asked again, for the server reports every refusal.
            self._stream.is_hidden = True


def _next_check() -> float:
    return _now() + _CHECK_EVERY * random.uniform(0.5, 1.5)  # noqa: S311 (spreads load)


def _now() -> float:
    return asyncio.get_running_loop().time()
