"""Single keys of a terminal, without Enter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["taking_keys"]

_AT_ONCE = 64  # bytes; somebody types, nobody pastes


@contextmanager
def taking_keys(take: Callable[[str], object]) -> Iterator[bool]:
    """Call `take` with each key that is typed until the block ends; yield whether keys can be taken.

    They cannot where stdin is no terminal. The terminal is as it was afterwards. Ctrl-C stays a signal.
    """
    try:
        import termios
        import tty
    except ImportError:  # no such terminals here
        yield False
        return
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        # A job in the background would be stopped for what comes next.
        foreground = os.tcgetpgrp(descriptor) == os.getpgrp()
    except (termios.error, OSError, ValueError):
        foreground = False
    if not foreground:
        yield False
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = b""
        with suppress(OSError):
            data = os.read(descriptor, _AT_ONCE)
        if not data:
            loop.remove_reader(descriptor)
        for key in data.decode(errors="replace"):
            take(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error, OSError):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
