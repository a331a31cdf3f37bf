"""From click's synchronous world to asyncio, with signals and the library's warnings taken care of."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from .credentials import hidden
from .output import say, say_text

__all__ = ["Stopped", "run", "run_until_stopped", "survives_hangup", "taking_signals"]

_T = TypeVar("_T")


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """A signal ended the work, after everything in it was closed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def run(work: Coroutine[Any, Any, _T], *, needs_reader: bool = False, quiet: bool = False) -> _T:
    """Return what `work` returns. A signal cancels it; further ones are ignored while it closes.

    With `needs_reader`, so does the end of whoever reads our stdout through a pipe. With `quiet`, the
    library's log is not shown.
    Raises Stopped (SIGINT, SIGTERM, SIGHUP), BrokenPipeError, and what `work` raises.
    """
    logger = logging.getLogger("natsdisc")
    if not logger.handlers:
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False
        # It warns at the end of every TLS connection, about streams that are not ours.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        # Without a handler Python itself writes what nats-py and asyncio log, as it is.
        logging.getLogger().addHandler(_Others())
    if quiet:
        logger.setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_guarded(work, needs_reader))
    except KeyboardInterrupt:  # where loops take no signal handlers
        raise Stopped(signal.SIGINT) from None


def run_until_stopped(work: Coroutine[Any, Any, None], *, needs_reader: bool = False) -> None:
    """`run` for what ends by a signal as a rule."""
    with suppress(Stopped):
        run(work, needs_reader=needs_reader)


def survives_hangup() -> bool:
    """Whether nohup, or somebody like it, started us."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@contextmanager
def taking_signals(take: Callable[[int], object]) -> Iterator[None]:
    """Inside `run`: hand the signals that would end it to `take` instead; afterwards nothing hears them."""
    loop = asyncio.get_running_loop()

    def hand_over(handler: Callable[[int], object]) -> None:
        with suppress(NotImplementedError):
            for number in _ending_signals():
                loop.add_signal_handler(number, handler, number)

    hand_over(take)
    try:
        yield
    finally:
        hand_over(lambda number: None)


async def _guarded(work: Coroutine[Any, Any, _T], needs_reader: bool) -> _T:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    watched = _pipe() if needs_reader else None
    reasons: list[Exception] = []

    def end(reason: Exception) -> None:
        if watched is not None:
            loop.remove_reader(watched)
        if not reasons:
            reasons.append(reason)
            task.cancel()

    with suppress(NotImplementedError):
        for number in _ending_signals():
            loop.add_signal_handler(number, lambda number: end(Stopped(number)), number)
    if watched is not None:
        # The writing end of a pipe becomes "readable" when the reading end is closed.
        loop.add_reader(watched, end, BrokenPipeError())
    try:
        return await work
    except asyncio.CancelledError:
        if reasons:
            raise reasons[0] from None
        raise
    finally:
        if watched is not None:
            loop.remove_reader(watched)


def _ending_signals() -> list[int]:
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    # A closed terminal ends us as Ctrl-C does.
    if hasattr(signal, "SIGHUP") and not survives_hangup():
        numbers.append(signal.SIGHUP)
    return numbers


def _pipe() -> int | None:
    """The descriptor of stdout, if it is a pipe."""
    with suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        if os.name == "posix" and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return descriptor
    return None


class _Stderr(logging.Handler):
    """Warnings of the library, and that all is well again, in the form of the command's own errors."""

    def emit(self, record: logging.LogRecord) -> None:
        # An error that ends a watch is raised as well, and told then.
        if record.name != "natsdisc.watch" or record.levelno < logging.ERROR:
            word = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            say(f"natsdisc: {word}{hidden(record.getMessage())}", err=True)


class _Others(logging.Handler):
    """Warnings of the libraries below, tracebacks included, with nothing in them that a terminal obeys."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        say_text(hidden(self.format(record)), err=True)
