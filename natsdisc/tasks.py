"""Work that goes on when its caller is cancelled, and steps that have a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from . import log
from .errors import ClosedError
from .stats import Counters

__all__ = ["Tasks", "bounded"]

_log = log.logger(__name__)
_T = TypeVar("_T")

# Seconds that a cancelled call waits for what it has begun: a server that is there answers within that.
_CANCELLED_WAIT_S = 0.4
# Seconds in which a cancelled task ends, unless something below swallows the cancellation.
_CANCELLING_S = 0.1


class Tasks:
    """The tasks of one Discovery."""

    def __init__(self, stats: Counters) -> None:
        self._stats = stats
        self._running: set[asyncio.Task[Any]] = set()

    def __bool__(self) -> bool:
        return bool(self._running)

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run `work` in a task whose outcome the caller takes."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def start_alone(self, what: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in a task whose failure is logged and counted, since no caller hears of it."""
        task = self.start(work)
        self._leave_alone(what, task)
        return task

    async def finish(self, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end, even if the caller is cancelled.

        A cancelled caller waits 0.4 s at most; the work then goes on by itself, and its failure is logged.
        """
        task = self.start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.check_cancelled_by_caller(task)
            self._leave_alone(what, task)
            await asyncio.wait((task,), timeout=_CANCELLED_WAIT_S)
            raise

    async def undo(
        self, what: str, work: asyncio.Task[_T], undo: Callable[[_T], Coroutine[Any, Any, Any]]
    ) -> None:
        """Undo `work`, whose caller was cancelled, once it has succeeded.

        Waits 0.4 s at most; the rest goes on by itself.
        """

        async def wait_and_undo() -> None:
            await asyncio.wait((work,))
            if not work.cancelled() and work.exception() is None:
                await undo(work.result())

        await asyncio.wait((self.start_alone(what, wait_and_undo()),), timeout=_CANCELLED_WAIT_S)

    @staticmethod
    async def stop(task: asyncio.Task[Any]) -> None:
        """Cancel `task` and wait 0.4 s at most until it has tidied up."""
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCELLED_WAIT_S)

    @staticmethod
    def check_cancelled_by_caller(work: asyncio.Task[Any]) -> None:
        """Raise ClosedError when it was `close` that cancelled `work`, and not the caller."""
        task = asyncio.current_task()
        if work.cancelled() and task is not None and not task.cancelling():
            raise ClosedError("this Discovery was closed before that was done")

    async def end(self, seconds: float) -> None:
        """Give the tasks `seconds` to end, then cancel them."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_CANCELLING_S)

    def _leave_alone(self, what: str, task: asyncio.Task[Any]) -> None:
        def tell(ended: asyncio.Task[Any]) -> None:
            error = None if ended.cancelled() else ended.exception()
            if error is not None:
                self._stats.task_failures += 1
                _log.warning(
                    "%s, which nobody waits for any more, failed: %s",
                    what,
                    error,
                    extra=log.fields("task_failed", what=what, error=error),
                )

        task.add_done_callback(tell)


async def bounded(what: str, work: Coroutine[Any, Any, Any], seconds: float) -> bool:
    """Run a step of a close for `seconds` at most, then cancel it. Return whether it ended by itself.

    It never raises: what the step raises is logged, and a CancelledError that comes from below ends only the
    step.
    """
    step = asyncio.create_task(work)
    try:
        await asyncio.wait((step,), timeout=seconds)
        in_time = step.done()
    finally:
        if not step.done():
            step.cancel()
    if not in_time:
        await asyncio.wait((step,), timeout=_CANCELLING_S)
        _log.warning(
            "%s did not end within %.1f s and was given up",
            what,
            seconds,
            extra=log.fields("close_step_given_up", what=what, seconds=seconds),
        )
        if not step.done():
            step.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception())
            return False
    error = None if step.cancelled() else step.exception()
    if error is not None:
        _log.error(
            "%s failed: %s",
            what,
            error,
            exc_info=error,
            extra=log.fields("close_step_failed", what=what, error=error),
        )
    return in_time
