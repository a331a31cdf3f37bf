"""Health checks of registrations: a function is asked now and then, and the status follows its answers.

Rules
1. A check is asked at once, and then every `interval` seconds. It has one interval to answer.
2. It fails when it returns False (or anything false but None), raises, or does not answer in time.
3. After `failures` failed checks in a row the status becomes `unhealthy`, after `successes` good ones
   `serving` again. No status that anybody else has set is touched, such as `draining` or `disabled`.
4. A check that does not answer is cancelled, and not asked again before it has ended.

A check runs in a task of its own, so it delays no renewal of a lease. One that blocks the event loop (a
`time.sleep`, a long computation) stops everything in the process, renewals too: use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .clock import Clock
from .errors import DiscoveryError, InvalidValueError
from .events import emit
from .registration import Registration
from .stats import Counters

__all__ = ["Health", "HealthCheck", "HealthChecks", "Verdict", "checked_health"]

Health: TypeAlias = Callable[[], Awaitable[object]]

# Seconds that a cancelled check has for tidying up, before its end is no longer waited for.
_TIDYING_S = 0.1
# Seconds that a registration waits for the end of its check when it ends itself.
_ENDING_S = 0.25


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check, how often it is asked (seconds), and how many answers in a row change the status."""

    check: Health
    interval: float = 5.0
    failures: int = 1
    successes: int = 1


def checked_health(
    health: Health | None, interval: float, failures: int, successes: int
) -> HealthCheck | None:
    """Return the health check that a user asked for; None without one. Raises InvalidValueError."""
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < math.inf:
        raise InvalidValueError(f"health_interval must be a number of seconds above 0: {interval!r}")
    for name, count in (("health_failures", failures), ("health_successes", successes)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidValueError(f"{name} must be a whole number, 1 or more: {count!r}")
    if health is None:
        return None
    if not callable(health):
        raise InvalidValueError(f"health must be an async function, not {type(health).__name__}")
    return HealthCheck(health, interval, failures, successes)


class Verdict:
    """The health that the answers of a check amount to: healthy at first, then as rule 3 says."""

    def __init__(self, failures: int, successes: int) -> None:
        self._needed = {False: failures, True: successes}
        self._in_a_row = 0
        self.healthy = True
        self.is_settled = False
        self._last, self._streak = True, 0

    def note(self, good: bool) -> bool:
        """Take one answer; return whether that makes it healthy.

        Before `is_settled` the answers are too few to say anything about a status that was there before.
        """
        self._streak = self._streak + 1 if good is self._last else 1
        self._last = good
        self.is_settled = self.is_settled or self._streak >= self._needed[good]
        if good is self.healthy:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            if self._in_a_row >= self._needed[good]:
                self.healthy, self._in_a_row = good, 0
        return self.healthy


class HealthChecks:
    """The running checks of one Discovery. `report` sets what they find."""

    def __init__(
        self, clock: Clock, stats: Counters, report: Callable[[Registration, bool], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._stats = stats
        self._report = report
        self._running: set[asyncio.Task[None]] = set()

    def follow(self, registration: Registration, check: HealthCheck | None) -> None:
        """Have the status of `registration` follow `check`, in place of an earlier one."""
        if check is None:
            return
        if registration._health is not None:
            registration._health.cancel()

        async def report(healthy: bool) -> None:
            await self._report(registration, healthy)

        asking = _Asking(check, self._clock, report, registration.id)
        name = f"natsdisc health of {registration.id}"
        registration._health = task = asyncio.create_task(asking.run(), name=name)
        self._running.add(task)
        task.add_done_callback(self._note_ended)

    @staticmethod
    async def end(registration: Registration) -> None:
        """End the check of `registration`, and wait a moment until it has tidied up."""
        task = registration._health
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,), timeout=_ENDING_S)

    async def aclose(self) -> None:
        """End all of them."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_ENDING_S)

    def _note_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._stats.task_failures += 1
            emit("check_failed", exc_info=bug, error=repr(bug), id=task.get_name())


class _Asking:
    """Asks one check until it is cancelled. `report` is given the verdict after every answer, and the reason.

    `id` is what the log calls the instance.
    """

    def __init__(
        self,
        check: HealthCheck,
        clock: Clock,
        report: Callable[[bool], Awaitable[None]],
        id: object,
    ) -> None:
        self._check = check
        self._clock = clock
        self._report = report
        self._id = id
        self._verdict = Verdict(check.failures, check.successes)
        self._asked: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Ask for ever."""
        try:
            while True:
                next_at = self._clock.time() + self._check.interval
                reason = await self._ask(next_at)
                before, healthy = self._verdict.healthy, self._verdict.note(not reason)
                if healthy is not before:
                    emit("healthy" if healthy else "unhealthy", id=self._id, error=reason)
                try:
                    if self._verdict.is_settled:
                        await self._report(healthy)
                except DiscoveryError as error:
                    # The next answer tries again.
                    emit("status_not_set", id=self._id, error=error)
                await self._until(next_at)
        finally:
            await self._end()

    async def _ask(self, deadline: float) -> str:
        """Return why the check failed, or an empty text."""
        late = f"no answer within {self._check.interval:g} s"
        if self._asked is not None and not self._asked.done():
            return late  # it swallowed its cancellation
        self._asked = asyncio.create_task(self._call(), name="natsdisc health check")
        await self._until(deadline, self._asked)
        if not self._asked.done():
            await self._end()
            return late
        if self._asked.cancelled():
            return "it was cancelled"
        return str(self._asked.result())

    async def _call(self) -> str:
        try:
            answer: Any = self._check.check()
            if inspect.isawaitable(answer):
                answer = await answer
            good = answer is None or bool(answer)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if good else f"it returned {answer!r:.80}"

    async def _end(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.cancel()
            await asyncio.wait((self._asked,), timeout=_TIDYING_S)

    async def _until(self, deadline: float, task: asyncio.Task[Any] | None = None) -> None:
        """Wait until `deadline` (by the clock), or until `task` is done."""
        wake = asyncio.Event()

        def done(_: object = None) -> None:
            wake.set()

        timer = self._clock.call_at(deadline, done)
        if task is not None:
            task.add_done_callback(done)
        try:
            await wake.wait()
        finally:
            timer.cancel()
            if task is not None:
                task.remove_done_callback(done)
