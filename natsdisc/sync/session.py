"""One process's Discovery behind a `natsdisc.sync.Discovery`, made anew in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from .. import discovery as asynchronous
from .. import log
from ..errors import ClosedError, InvalidValueError
from .thread import Callbacks, LoopThread

__all__ = ["MakeDiscovery", "Session", "Sessions"]

_log = log.logger(__name__)

# Gets the session, is called on the loop thread, and returns a Discovery or something to await.
MakeDiscovery: TypeAlias = Callable[["Session"], "asynchronous.Discovery | Awaitable[asynchronous.Discovery]"]


class Session:
    """A Discovery of one process, with the thread that it lives on."""

    def __init__(self, make: MakeDiscovery) -> None:
        self.pid = os.getpid()
        self.closed = False
        self.callbacks = Callbacks()
        self.thread = LoopThread.acquire()
        self._closing = threading.Lock()

        async def opening() -> asynchronous.Discovery:
            made = make(self)
            return made if isinstance(made, asynchronous.Discovery) else await made

        try:
            self.discovery = self.thread.run(opening, "connecting")
        except BaseException:
            self.thread.release()
            raise

    @property
    def is_here(self) -> bool:
        """Whether this process made it, and not the parent that forked it."""
        return os.getpid() == self.pid

    def close(self, drain: float, keep: bool = False) -> None:
        """Close the Discovery and end the threads; a second call waits for the first one."""
        with self._closing:
            if self.closed:
                return
            refused = False
            try:
                self.thread.run(lambda: self.discovery.close(drain=drain, keep=keep), "closing")
            except InvalidValueError:
                refused = True  # of the argument: nothing was closed
                raise
            finally:
                if not refused:
                    self.closed = True
                    self.thread.release()
                    self.callbacks.end()


class Sessions:
    """The session of each process that uses one `natsdisc.sync.Discovery`."""

    def __init__(self, make: MakeDiscovery) -> None:
        self._make = make
        self._closed = False
        self.lock = threading.RLock()
        self._session: Session | None = Session(make)
        _open.add(self)

    def get(self) -> Session:
        """Return the session of this process; a forked child gets one of its own.

        Raises ClosedError after `close`, and in a child of a process that had registrations.
        """
        session = self._session
        if session is not None and session.is_here and not session.closed:
            return session
        with self.lock:
            session = self._session
            if self._closed or (session is not None and session.is_here and session.closed):
                raise ClosedError("this Discovery was closed")
            if session is None or not session.is_here:
                if session is not None and session.discovery.registrations:
                    raise ClosedError(
                        f"this Discovery holds registrations of process {session.pid}, which forked this "
                        "one; call natsdisc.sync.connect here, or register after the fork only"
                    )
                session = self._session = Session(self._make)
            return session

    @property
    def latest(self) -> Session:
        """The session that was used last, also when it is closed or another process's."""
        assert self._session is not None
        return self._session

    def close(self, drain: float, keep: bool = False) -> None:
        """Close the session of this process; what a parent process opened is left alone."""
        session = self._session
        if session is not None and session.is_here:
            session.close(drain, keep)
        self._closed = True
        _open.discard(self)

    def after_fork(self) -> None:
        """Leave everything of the parent's alone, in a forked child."""
        self.lock = threading.RLock()
        if self._session is not None:
            _inherited.append(self._session)


# Discoveries live until they are closed, or the interpreter ends.
_open: set[Sessions] = set()
# A forked child keeps what it inherited: see `LoopThread.forget`.
_inherited: list[Any] = []


def _after_fork() -> None:
    _inherited.append(LoopThread.forget())
    for sessions in _open:
        sessions.after_fork()


def _close_all() -> None:
    """Unregister what is still registered when the interpreter ends."""
    for sessions in list(_open):
        try:
            sessions.close(0.0)
        except Exception as error:
            _log.error(
                "closing a Discovery at the end of the interpreter failed: %s",
                error,
                extra=log.fields("close_failed", error=error),
            )


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
