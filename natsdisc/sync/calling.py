"""Run a user's blocking function in the user's thread, in the middle of a coroutine on the loop."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..model import Instance
from .thread import LoopThread

__all__ = ["call"]

_T = TypeVar("_T")
_Instance = TypeVar("_Instance", bound=Instance)


def call(
    thread: LoopThread,
    start: Callable[[Callable[[_Instance], Awaitable[_T]]], Coroutine[Any, Any, _T]],
    function: Callable[[_Instance], _T],
    what: str,
) -> _T:
    """Run the coroutine of `start` on the loop; its argument calls `function` in this thread.

    The loop thread thus decides who is called and how often, and is never held up by `function`.
    """
    asked: queue.SimpleQueue[tuple[_Instance, asyncio.Future[_T]] | None] = queue.SimpleQueue()

    async def bridge(instance: _Instance) -> _T:
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        asked.put((instance, answer))
        return await answer

    async def work() -> _T:
        try:
            return await start(bridge)
        finally:
            asked.put(None)

    outcome = thread.begin(work, what)
    try:
        while (item := thread.take(asked, what)) is not None:
            instance, answer = item
            try:
                result = function(instance)
            except Exception as error:
                thread.read(_setter(answer.set_exception, error, answer))
            else:
                thread.read(_setter(answer.set_result, result, answer))
    except BaseException:
        outcome.cancel()
        raise
    return thread.wait(outcome, what)


def _setter(
    set_outcome: Callable[[Any], None], value: object, answer: asyncio.Future[Any]
) -> Callable[[], None]:
    def set_it() -> None:
        if not answer.done():  # a time-out cancels it
            set_outcome(value)

    return set_it
