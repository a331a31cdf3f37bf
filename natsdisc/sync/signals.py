"""Closing a Discovery on a signal, before whatever else the signal ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from .. import log
from ..errors import InvalidValueError

__all__ = ["close_on_signal"]

_log = log.logger(__name__)


class _Close(Protocol):
    def __call__(self, *, drain: float) -> None: ...


def close_on_signal(close: _Close, drain: float, signals: tuple[int, ...] | None) -> None:
    """On a signal call `close` in a thread of its own, then send this process the signal again.

    By then the handler that was there before is back, so the signal does what it did before. A second signal
    meanwhile changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidValueError("close_on_signal sets signal handlers, which only the main thread can do")
    for number in (signal.SIGTERM,) if signals is None else signals:
        _chain(close, drain, number)


def _chain(close: _Close, drain: float, number: int) -> None:
    before: Any = signal.getsignal(number)
    closing: list[threading.Thread] = []
    closed = threading.Event()

    def leave() -> None:
        try:
            close(drain=drain)
        except Exception as error:
            _log.error(
                "closing on signal %d failed: %s",
                number,
                error,
                extra=log.fields("close_failed", error=error),
            )
        closed.set()
        os.kill(os.getpid(), number)

    def handle(received: int, frame: FrameType | None) -> None:
        if not closed.is_set():
            if not closing:
                closing.append(threading.Thread(target=leave, name="natsdisc-leaving", daemon=True))
                closing[0].start()
        elif callable(before):
            before(received, frame)
        else:
            signal.signal(number, before if before is not None else signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(number, handle)
