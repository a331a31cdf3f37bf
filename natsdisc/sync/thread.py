"""The event loop thread below `natsdisc.sync`, and the thread that calls users' callbacks."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from .. import log
from ..errors import ClosedError, WrongLoopError

__all__ = ["Callbacks", "LoopThread"]

_log = log.logger(__name__)
_T = TypeVar("_T")

# Seconds after which a waiting call looks whether the loop thread is still there. On Windows it is also how
# long Ctrl-C may take.
_LOOK = 1.0
# Seconds that ending waits for a thread: work that is left on the loop is cancelled and ends at once.
_JOIN = 2.0


class LoopThread:
    """A daemon thread that runs an event loop. All Discoveries of `natsdisc.sync` in a process share it.

    With gevent's monkey patching it is a greenlet. One loop for all then matters: a system thread can run one
    loop only.
    """

    _current: LoopThread | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._users = 0
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="natsdisc", daemon=True)

    @classmethod
    def acquire(cls) -> LoopThread:
        """Return the loop thread of this process, started; each acquire needs a `release`."""
        with cls._lock:
            thread = cls._current
            if thread is None or not thread._thread.is_alive():
                thread = cls._current = LoopThread()
                thread._thread.start()
            thread._users += 1
        thread._started.wait()
        return thread

    def release(self) -> None:
        """End the thread when this was its last user."""
        with LoopThread._lock:
            self._users -= 1
            if self._users > 0:
                return
            if LoopThread._current is self:
                LoopThread._current = None
        loop, stop = self._loop, self._stop
        assert loop is not None
        assert stop is not None
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(_JOIN)

    @classmethod
    def forget(cls) -> LoopThread | None:
        """Forget the parent's thread in a forked child, and return it.

        Keep the return value for ever: an event loop that is collected takes its descriptors out of the
        selector that the child shares with its parent.
        """
        thread, cls._current, cls._lock = cls._current, None, threading.Lock()
        return thread

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]], what: str, timeout: float | None = None) -> _T:
        """Run the coroutine of `make` on the loop and wait for it, at most `timeout` seconds.

        `what` says in errors what was attempted. Ctrl-C and other exceptions in the waiting thread cancel the
        coroutine. Raises what it raises; TimeoutError, WrongLoopError on the loop thread, ClosedError.
        """

        async def work() -> _T:
            try:
                async with asyncio.timeout(timeout) as limit:
                    return await make()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise TimeoutError(f"{what} did not end within {timeout:g} s") from error

        return self.wait(self.begin(work, what), what)

    def begin(self, make: Callable[[], Coroutine[Any, Any, _T]], what: str) -> Future[_T]:
        """Run the coroutine of `make` on the loop; return a Future for `wait`."""
        if threading.current_thread() is self._thread:
            raise WrongLoopError(
                f"{what} was called on the event loop thread of natsdisc, which would wait for itself; "
                "functions for `where`, `select` and `health` may not call natsdisc.sync"
            )
        coroutine = make()
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:  # the loop was closed
            coroutine.close()
            raise _ended(what) from error

    def wait(self, future: Future[_T], what: str) -> _T:
        """Return the outcome of a Future of `begin`; an exception in the waiting thread cancels it."""
        try:
            while True:
                try:
                    return future.result(_LOOK)
                except FutureTimeout:
                    if future.done():
                        raise
                    self._check_alive(what)
        except CancelledError as error:
            raise _ended(what) from error
        except BaseException:
            future.cancel()
            raise

    def take(self, items: queue.SimpleQueue[_T], what: str) -> _T:
        """Return the next item that the loop puts into `items`."""
        while True:
            try:
                return items.get(timeout=_LOOK)
            except queue.Empty:
                self._check_alive(what)

    def read(self, function: Callable[[], _T]) -> _T:
        """Call a plain function on the loop, between its other work, and return what it returns.

        When the loop has ended nothing changes any more, and the function is called at once.
        """
        if threading.current_thread() is self._thread:
            return function()
        future: Future[_T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
            return self.wait(future, "reading")
        except (RuntimeError, ClosedError):
            if self._thread.is_alive():
                raise
            return function()

    def _check_alive(self, what: str) -> None:
        if not self._thread.is_alive():
            raise _ended(what)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()


class Callbacks:
    """A daemon thread that calls users' callbacks, so that a slow one keeps no lease from being renewed.

    They are called one after the other, in the order of what happened. The thread starts with the first.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None]
        self._waiting = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def wrap(self, callback: Callable[..., object]) -> Callable[..., None]:
        """Return a function that has `callback` called soon; call it on the loop thread only."""

        def put(*args: Any) -> None:
            self._waiting.put((callback, args))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="natsdisc-callbacks", daemon=True)
                self._thread.start()

        return put

    def end(self) -> None:
        """Call what is left, and end the thread; wait for that two seconds at most."""
        if self._thread is not None:
            self._waiting.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join(_JOIN)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            callback, args = item
            try:
                callback(*args)
            except Exception as error:
                _log.exception(
                    "a callback failed: %s",
                    error,
                    extra=log.fields("callback_failed", callback=repr(callback), error=error),
                )


def _ended(what: str) -> ClosedError:
    return ClosedError(f"{what} did not end: this Discovery was closed meanwhile")
