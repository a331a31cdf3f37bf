"""The event loop, and the process, that a Discovery belongs to."""

from __future__ import annotations

import asyncio
import os
import threading

from .errors import ClosedError, WrongLoopError

__all__ = ["OwnLoop"]


class OwnLoop:
    """The loop in which a Discovery was made or first used.

    All its connections, timers and tasks live there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop` is the one of the connection below, if that is known; else it is the running one."""
        self._process = os.getpid()
        self._thread = threading.current_thread()
        self._loop = loop if loop is not None else _running()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop; None before the first use."""
        return self._loop

    @property
    def in_this_process(self) -> bool:
        """Whether this is the process that it was made in, and not a forked child."""
        return os.getpid() == self._process

    def check(self, *, needs_loop: bool = True) -> None:
        """Raise WrongLoopError outside of the loop, ClosedError in a forked child.

        Without `needs_loop`, a call while no loop runs is right too.
        """
        here = _running()
        if here is not None and here is self._loop:
            return
        if not self.in_this_process:
            raise ClosedError(
                f"this Discovery is process {self._process}'s, which forked this one; make one here"
            )
        if here is None:
            if needs_loop:
                raise WrongLoopError(
                    "this Discovery was used without a running event loop; call it from a coroutine, or from "
                    "another thread with asyncio.run_coroutine_threadsafe(…, loop)"
                )
            return
        if self._loop is None:
            self._loop, self._thread = here, threading.current_thread()
            return
        if self._loop.is_closed():
            raise WrongLoopError(
                "this Discovery belongs to an event loop that has ended, such as one of asyncio.run; make a "
                "new Discovery in this loop, and close it before this loop ends"
            )
        raise WrongLoopError(
            f"this Discovery belongs to another event loop, of the thread {self._thread.name!r}, and was "
            f"used in the thread {threading.current_thread().name!r}; make a Discovery in each loop, or hand "
            "the call to its own loop with asyncio.run_coroutine_threadsafe(…, loop)"
        )


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
