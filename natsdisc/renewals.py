"""When registrations act: one timer for all of them, and few workers for what falls due together.

While the connection is away, one worker a bucket waits for it, and all that fell due waits with it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from . import lease, log
from .clock import Clock, Jumps, LoopClock, Timer
from .errors import ClosedError, DiscoveryError
from .lease import Step
from .registration import Registration
from .stats import Counters
from .store import Bucket

__all__ = ["Renewals"]

_log = log.logger(__name__)

# Renewals that fall due this close together (seconds) go out together.
_WINDOW_S = 0.025
# The size of a batch, and the number of batches at once. A batch waits half a second for its answers. If all
# that fall due after a reconnect went out together, most would spend that time in a queue, and be sent again.
_TOGETHER = {Step.RENEW: 125, Step.REGISTER: 50}
_WORKERS = 4
# Seconds between two looks at what waits for the connection, and at the clocks of this machine.
_LOOK_S = 1.0
# Seconds after which work that failed for a bug is tried again.
_AFTER_A_BUG_S = 1.0
# The heap is rebuilt when more than this many of its entries, and more than half, are of no use any more.
_DEAD_KEPT = 64

_Act: TypeAlias = Callable[[Bucket, list[Registration]], Awaitable[None]]
_Slot: TypeAlias = list[Any]  # due, a number that breaks ties, and the registration or None


@dataclass(slots=True)
class _Line:
    """The registrations of one bucket that wait for the same step, each once."""

    bucket: Bucket
    step: Step
    waiting: OrderedDict[Registration, None] = field(default_factory=OrderedDict)
    workers: int = 0
    has_lookout: bool = False  # one of the workers waits for the connection


class Renewals:
    """The schedule of one Upkeep. `renew` and `register` act on some registrations of a bucket.

    `silent` is told of registrations that wait for the connection, and why; `jumped` is called when this
    machine slept, or when its time was set.
    """

    def __init__(
        self,
        clock: Clock,
        stats: Counters,
        *,
        renew: _Act,
        register: _Act,
        silent: Callable[[Iterable[Registration], DiscoveryError], None],
        jumped: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._stats = stats
        self._acts: dict[Step, _Act] = {Step.RENEW: renew, Step.REGISTER: register}
        self._silent = silent
        self._jumped = jumped
        self._jumps = Jumps() if isinstance(clock, LoopClock) else None
        self._heap: list[_Slot] = []
        self._slots: dict[Registration, _Slot] = {}
        self._order = itertools.count()
        self._lines: dict[tuple[Bucket, Step], _Line] = {}
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._is_stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, registration: Registration) -> None:
        """Have `registration` act when its lease is due, and not at an earlier time that was set before."""
        self._drop_slot(registration)
        due = registration._lease.due
        if due == math.inf or self._is_stopped:
            return
        slot = self._slots[registration] = [due, next(self._order), registration]
        heapq.heappush(self._heap, slot)
        self._set_timer()

    def let_go(self, registration: Registration) -> None:
        """Forget `registration` at once, with its value: a card may be large, and a ttl long."""
        self._drop_slot(registration)
        for line in self._lines.values():
            line.waiting.pop(registration, None)

    def run(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` in a task. If it fails for a bug it is logged, counted, and run again a little later."""

        async def run_until_done() -> None:
            pause = _AFTER_A_BUG_S
            while True:
                try:
                    return await work()
                except Exception as bug:
                    self._note_bug(what, bug)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 60.0)

        task = asyncio.create_task(run_until_done(), name=f"natsdisc {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Let nothing fall due any more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.clear()
        self._slots.clear()
        for line in self._lines.values():
            line.waiting.clear()

    async def close(self) -> None:
        """`stop`, and end the tasks."""
        self.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _drop_slot(self, registration: Registration) -> None:
        slot = self._slots.pop(registration, None)
        if slot is not None:
            slot[2] = None
            dead = len(self._heap) - len(self._slots)
            if dead > _DEAD_KEPT and dead > len(self._slots):
                self._heap = list(self._slots.values())
                heapq.heapify(self._heap)

    def _set_timer(self) -> None:
        if not self._slots:
            return
        due = self._heap[0][0]
        if self._jumps is not None:
            due = min(due, self._clock.time() + _LOOK_S)
        self._set_timer_at(due)

    def _set_timer_at(self, due: float) -> None:
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_at(due, self._act)

    def _act(self) -> None:
        self._timer = None
        try:
            if self._jumps is not None and self._jumps.seen():
                self._jumped()
            self._take_due()
            for line in self._lines.values():
                self._staff(line)
        except Exception as bug:
            self._note_bug("the schedule of renewals", bug)
            self._set_timer_at(self._clock.time() + _AFTER_A_BUG_S)
        else:
            self._set_timer()

    def _take_due(self) -> None:
        now = self._clock.time()
        while self._heap and self._heap[0][0] <= now + _WINDOW_S:
            registration: Registration | None = heapq.heappop(self._heap)[2]
            if registration is None:
                continue
            del self._slots[registration]
            step = lease.step(registration._lease)
            if step is not Step.NOTHING:
                place = registration._bucket, step
                line = self._lines.get(place)
                if line is None:
                    line = self._lines[place] = _Line(*place)
                line.waiting[registration] = None

    def _staff(self, line: _Line) -> None:
        wanted = min(math.ceil(len(line.waiting) / _TOGETHER[line.step]), _WORKERS)
        if line.has_lookout:
            return  # the others would only wait beside it
        for _ in range(wanted - line.workers):
            line.workers += 1
            self.run(f"renewals ({line.step.name.lower()})", lambda: self._work(line))

    async def _work(self, line: _Line) -> None:
        try:
            while line.waiting:
                some: list[Registration] = []
                try:
                    if not await self._connected(line):
                        break
                    while line.waiting and len(some) < _TOGETHER[line.step]:
                        some.append(line.waiting.popitem(last=False)[0])
                    await self._acts[line.step](line.bucket, some)
                except Exception as bug:
                    # It must not end the renewals, of these or of others.
                    self._note_bug(f"a step ({line.step.name.lower()}) of {len(some)} registrations", bug)
                    self._put_later(some)
                    if not some:
                        await asyncio.sleep(_AFTER_A_BUG_S)
        finally:
            line.workers -= 1

    async def _connected(self, line: _Line) -> bool:
        """Wait until the connection is up; return False if another worker does that already."""
        if line.has_lookout:
            return False
        line.has_lookout = True
        waited = False
        try:
            while line.waiting:
                try:
                    await line.bucket.ready(_LOOK_S)
                except DiscoveryError as error:
                    waited = True
                    self._silent(list(line.waiting), error)
                    if isinstance(error, ClosedError):  # it is told at once, each time
                        await asyncio.sleep(_LOOK_S)
                else:
                    break
        finally:
            line.has_lookout = False
        if waited:
            self._staff(line)
        return True

    def _put_later(self, registrations: Sequence[Registration]) -> None:
        now = self._clock.time()
        for registration in registrations:
            if registration not in self._slots and registration._lease.due <= now and registration._is_held:
                registration._set(lease.postponed(registration._lease, now + _AFTER_A_BUG_S))
                self.put(registration)

    def _note_bug(self, what: str, bug: Exception) -> None:
        self._stats.task_failures += 1
        _log.exception("%s failed, and goes on", what, extra=log.fields("task_failed", what=what, error=bug))
