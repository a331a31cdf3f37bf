"""Doing the same to many things, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["some_at_once"]

_T = TypeVar("_T")
_R = TypeVar("_R")


async def some_at_once(work: Callable[[_T], Awaitable[_R]], items: Iterable[_T], *, slots: int) -> list[_R]:
    """Return what `work` returns for each item, in their order, running at most `slots` at a time.

    Raises the first error of `work` after the rest was cancelled: nothing goes on behind the caller.
    """
    free = asyncio.Semaphore(slots)

    async def one(item: _T) -> _R:
        async with free:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
