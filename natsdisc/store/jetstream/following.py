"""A watch that follows one consumer after another: each begins with a snapshot, and goes on with changes.

A pass ends with the reason why everything has to be read again. While nothing is wrong, a new consumer takes
the place of the last one without a gap: after a cluster was restless, and now and then.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from ...errors import StoreUnavailableError
from .. import ResyncReason, Sink
from .api import ApiError
from .consumer import IDLE_HEARTBEAT_S
from .reading import Place, Reading, open_reading
from .requests import delays

__all__ = ["SILENCE_S", "Following"]

# Two idle heartbeats lost in a row are silence.
SILENCE_S = 2.0 * IDLE_HEARTBEAT_S
# A replacement that could not be made is tried again after this (seconds).
_REPLACE_AGAIN_S = 5.0
# At most this many copies in a row may be found lacking entries.
_MOST_WRONG_COPIES = 3
# Without any sign of trouble the consumer is asked now and then whether everything arrived; and if anything
# has changed since, all is read again, the more rarely the more there is (seconds, and seconds an entry).
_CHECK_EVERY = 180.0
_READ_AGAIN_AFTER = 0.5
# Pauses between two looks for a stream that is not there.
_FIRST_ABSENCE_S, _LONGEST_ABSENCE_S = 0.1, 2.0


class Following:
    """Reports `place` to `sink`. Set `wake` when the connection has changed."""

    def __init__(self, place: Place, sink: Sink, wake: asyncio.Event) -> None:
        self._place = place
        self._requester = place.api.requester
        self._sink = sink
        self._wake = wake
        self._breaks = 0
        self._confirmed = _now()
        self._reading: Reading | None = None
        self._content: tuple[int, int] | None = None
        self._absences = delays(_FIRST_ABSENCE_S, _LONGEST_ABSENCE_S)
        self._server_id: str | None = None
        self._leader: str | None = None
        self._wrong_copies = 0
        # Whether this user was allowed such a consumer before.
        self.granted = False
        # Whether something was wrong a moment ago, so that the cluster may still be catching up.
        self.troubled = False

    @property
    def confirmed(self) -> float:
        """When it was last certain that nothing was missed (loop's clock)."""
        confirmed = self._reading.confirmed if self._reading is not None else None
        return self._confirmed if confirmed is None else max(self._confirmed, confirmed)

    async def run(self) -> ResyncReason | None:
        """Open a consumer and follow it until something may be missing, or wait for a stream to be there.

        None when the stream may be there now. Raises DiscoveryError for what has to be waited for.
        """
        self._breaks = self._requester.breaks
        if await self._open():
            return await self._follow()
        await self._wait_for_stream()
        return None

    async def drop(self) -> None:
        """End the consumer, if there is one."""
        reading = self._leave()
        if reading is not None:
            await reading.aclose()

    async def _open(self) -> bool:
        """Open a consumer, and report its snapshot instead of what the last one goes on to deliver.

        False when there is no stream, which is reported as empty. When this raises, the last consumer is
        still there.
        """
        fresh = await open_reading(self._place, self._sink, self._wake, troubled=self.troubled)
        self.granted = True
        if fresh is None:
            await self.drop()
            self._begin_snapshot(None)
            self._sink.end()
            self._confirmed = _now()
            return False
        last = self._leave()
        self._reading, self._absences = fresh, delays(_FIRST_ABSENCE_S, _LONGEST_ABSENCE_S)
        try:
            self._begin_snapshot(fresh.probe.leader)
            fresh.start()
        finally:
            if last is not None:
                await last.aclose()
        return True

    def _begin_snapshot(self, leader: str | None) -> None:
        """Begin to report a snapshot, and say if the owners have had a reason to register again."""
        server_id = self._requester.server_id
        is_new_server = self._server_id is not None and server_id != self._server_id
        is_new_leader = None not in (self._leader, leader) and leader != self._leader
        self._server_id, self._leader = server_id, leader or self._leader
        if is_new_server or is_new_leader:
            self._sink.recover()
        self._sink.begin()

    def _leave(self) -> Reading | None:
        """Report no more of the consumer, and return it to be closed."""
        self._confirmed = self.confirmed
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.leave()
        return reading

    async def _follow(self) -> ResyncReason | None:
        check_at, begun = _next_check(), _now()
        while True:
            reading = self._reading
            assert reading is not None
            delivery, probe = reading.delivery, reading.probe
            self._wake.clear()
            if not self._requester.up or self._requester.breaks != self._breaks:
                return ResyncReason.RECONNECT
            if delivery.bug is not None:
                raise delivery.bug
            if delivery.resync is not None:
                return delivery.resync
            if delivery.is_settling:
                reason = await self._settle(reading)
                if reason is not None:
                    return reason
                continue
            # While a large snapshot comes, heartbeats stand behind megabytes of it.
            silence = _now() - max(delivery.heard, self._place.gate.heard)
            if silence > SILENCE_S:
                return ResyncReason.SILENCE
            if probe.is_cut_off:
                return ResyncReason.LEADER
            if _now() > probe.look_again_at:
                if await self._replace():
                    check_at, begun = _next_check(), _now()
                else:
                    probe.look_again_at = _now() + _REPLACE_AGAIN_S
                continue
            if _now() > probe.ask_at:
                await probe.ask(self._place.patience_s)
                continue
            if delivery.snapshot_is_quiet or _now() > check_at:
                check_at = _next_check()
                if not await reading.check():
                    return ResyncReason.CHECK
                read_again_at = begun + max(_CHECK_EVERY / 2, _READ_AGAIN_AFTER * delivery.received)
                if _now() > read_again_at and await self._has_changed(reading) and await self._replace():
                    begun = _now()
                continue
            with suppress(TimeoutError):
                until_silence = SILENCE_S - silence + IDLE_HEARTBEAT_S / 10
                until_next = min(probe.ask_at, probe.look_again_at, check_at) - _now()
                async with asyncio.timeout(min(until_silence, until_next)):
                    await self._wake.wait()

    async def _settle(self, reading: Reading) -> ResyncReason | None:
        """Decide about a snapshot that differs from what the leader has."""
        reason = await reading.settle(believe=self._wrong_copies >= _MOST_WRONG_COPIES)
        if reason is ResyncReason.COPY:
            self._wrong_copies += 1
        elif reason is None:
            self._wrong_copies = 0
        return reason

    async def _replace(self) -> bool:
        """Read everything again by a new consumer; False if that cannot be made now, and the last one stays.

        The last one is read until the new one is there: nothing is stale meanwhile.
        """
        self.troubled = False
        try:
            if not await self._open():
                raise StoreUnavailableError(f"watching {self._place.filter}: the stream went away")
        except StoreUnavailableError:
            if self._reading is None:
                raise
            return False
        return True

    async def _has_changed(self, reading: Reading) -> bool:
        """Return whether anything below the filter was written, or went, since this was last asked."""
        try:
            content = await reading.content()
        except (StoreUnavailableError, ApiError):
            return False  # the watch itself will tell what is wrong
        before, self._content = self._content, content
        return content is None or content != before

    async def _wait_for_stream(self) -> None:
        """Wait until somebody makes the stream, or some time has passed."""
        advisory = f"$JS.EVENT.ADVISORY.STREAM.CREATED.{self._place.stream.name}"
        subscription = await self._requester.subscribe(advisory, lambda messages: self._wake.set())
        try:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(next(self._absences)):
                    await self._wake.wait()
        finally:
            await subscription.aclose()


def _next_check() -> float:
    return _now() + _CHECK_EVERY * random.uniform(0.5, 1.5)  # noqa: S311 (spreads load)


def _now() -> float:
    return asyncio.get_running_loop().time()
