"""Whether a nats-py connection is up, and calls when that changes. Sets no callback of nats-py."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client

from ... import log
from ...errors import (
    ClosedError,
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    WrongLoopError,
)
from .client import OwnClient
from .outage import is_refusal
from .transport import abort

__all__ = ["CredentialsRefusedError", "Liveness"]

_log = log.logger(__name__)

# nats-py has one callback for each event, and on a connection that a user made it is the user's: seconds
# between two looks, and between two while somebody waits for the connection.
_LOOK_EVERY_S = 0.2
_LOOK_OFTEN_S = 0.05
# nats-py waits for ever for a lost connection to close; after this many seconds its socket is closed for it.
_CLOSING_TIMEOUT_S = 1.0
_RESTART_AFTER_S = 0.2


class CredentialsRefusedError(StoreUnavailableError, PermissionDeniedError):
    """The server refuses the credentials in a reconnect. That may pass, so it counts as unavailable too."""


class Liveness:
    """The state of the connection `nc` as one loop sees it.

    `fail(generation, error)` is called to end with `error` what was sent before `generation`.
    """

    def __init__(self, nc: Client, fail: Callable[[int, DiscoveryError], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._nc = nc
        self._fail = fail
        self._own = nc if isinstance(nc, OwnClient) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ""
        self._tokens = itertools.count()
        self._on_break: dict[int, Callable[[], None]] = {}
        self._on_reconnect: dict[int, Callable[[], None]] = {}
        self._on_close: dict[int, Callable[[ClosedError], None]] = {}
        self._usable = asyncio.Event()  # up or closed: there is nothing to wait for
        self._waiters = 0
        self._task: asyncio.Task[None] | None = None
        self._was_up, self._seen_breaks, self._told_closed, self._ended = False, 0, False, False
        self._closing_since: float | None = None

    @property
    def up(self) -> bool:
        """Whether bytes can be sent now."""
        return bool(self._nc.is_connected) and (self._own is None or self._own.settled)

    @property
    def generation(self) -> int:
        """How often the connection was made again; what was sent in an earlier one gets no answer."""
        return int(self._nc.stats["reconnects"])

    @property
    def listeners(self) -> int:
        """How many callbacks are called when the connection changes."""
        return len(self._on_break) + len(self._on_reconnect) + len(self._on_close)

    def on_break(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is lost; returns a function that ends this."""
        return self._listen(self._on_break, callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; returns a function that ends this."""
        return self._listen(self._on_reconnect, callback)

    def on_close(self, callback: Callable[[ClosedError], None]) -> Callable[[], None]:
        """Call `callback` when the connection was closed for good; returns a function that ends this."""
        return self._listen(self._on_close, callback)

    def check(self) -> None:
        """Raise WrongLoopError outside of the connection's loop, ClosedError once it is closed."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = self._loop_of_connection() or loop
            self._thread = threading.current_thread().name if self._loop is loop else "another one"
        if loop is not self._loop:
            here = threading.current_thread().name
            raise WrongLoopError(
                f"this store belongs to the event loop {self._loop!r} (thread {self._thread}), where its "
                f"NATS connection was made, and was used in {loop!r} (thread {here}): "
                "use it in its own loop, with asyncio.run_coroutine_threadsafe from other threads"
            )
        if self._ended:
            raise ClosedError("the Discovery was closed")
        if self._nc.is_closed:
            self.look()
            raise self._closed_error()

    def watch(self) -> None:
        """Begin to look at the connection, if that has not begun."""
        if self._task is None and not self._ended:
            self._was_up, self._seen_breaks = self.up, self.generation
            self._start()

    async def ready(self, timeout: float) -> None:
        """Wait until the connection is up.

        Raises CredentialsRefusedError, StoreUnavailableError, ClosedError.
        """
        self.check()
        if self.up:
            return
        self.watch()
        self.look()
        self._waiters += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._usable.wait()
        finally:
            self._waiters -= 1
        self.check()
        if not self.up:
            text = f"not connected to NATS for {timeout:.3g} s; the last error was: {self._nc.last_error}"
            if is_refusal(self._nc.last_error):
                raise CredentialsRefusedError(f"the server refuses the credentials: {text}")
            raise StoreUnavailableError(text)

    def look(self) -> None:
        """Tell what has changed since the last look."""
        up, generation, closed = self.up, self.generation, bool(self._nc.is_closed)
        was_up, self._was_up = self._was_up, up
        broke = was_up and (not up or generation != self._seen_breaks)
        came_back = up and generation != self._seen_breaks
        if up:
            self._seen_breaks = generation
        if up or closed:
            self._usable.set()
        else:
            self._usable.clear()
        if closed:
            self._fail(generation + 1, self._closed_error())
        else:
            # Their answers went to a connection that is no more; those on the one that is up may still come.
            broken = StoreUnavailableError("the NATS connection broke before the answer came")
            self._fail(generation if up else generation + 1, broken)
        if broke:
            self._call(self._on_break)
        if came_back:
            self._call(self._on_reconnect)
        if closed and not self._told_closed:
            self._tell_closed()
        self._end_closing()

    async def close(self) -> None:
        """End the looking; the connection stays as it is."""
        self._ended = True
        self._usable.set()
        if self._own is not None:
            with suppress(ValueError):
                self._own.changed.remove(self.look)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _start(self) -> None:
        if self._ended or (self._task is not None and not self._task.done()):
            return
        if self._own is not None and self.look not in self._own.changed:
            self._own.changed.append(self.look)
        self._task = asyncio.create_task(self._run(), name="natsdisc-link")
        self._task.add_done_callback(self._check_ended)

    async def _run(self) -> None:
        while not self._told_closed:
            self.look()
            if self._own is not None:
                self._own.check_tasks()
            await asyncio.sleep(_LOOK_OFTEN_S if self._waiters and not self.up else _LOOK_EVERY_S)

    def _check_ended(self, task: asyncio.Task[None]) -> None:
        """Begin again if `task` has ended although there is something to look at."""
        if self._ended or self._told_closed or task is not self._task:
            return
        error = None if task.cancelled() else task.exception()

        def restart() -> None:
            if self._ended or task is not self._task:
                return
            self.counts["tasks_restarted"] += 1
            _log.error(
                "the task that looks at the NATS connection ended (%r): starting it again",
                error or "cancelled",
                extra=log.fields("task_restarted", task=task.get_name(), error=error or "cancelled"),
            )
            self._start()

        # Later: a loop that is shut down cancels its tasks, and never comes to this.
        task.get_loop().call_later(_RESTART_AFTER_S, restart)

    def _listen(self, listeners: dict[int, Any], callback: Callable[..., None]) -> Callable[[], None]:
        token = next(self._tokens)
        listeners[token] = callback
        self.watch()
        return lambda: listeners.pop(token, None) and None

    def _call(self, listeners: dict[int, Callable[..., None]], *arguments: object) -> None:
        for callback in list(listeners.values()):
            try:
                callback(*arguments)
            except Exception:
                # The others have to hear of it too.
                self.counts["callbacks_failed"] += 1
                _log.exception(
                    "a callback of the NATS connection raised", extra=log.fields("callback_failed")
                )

    def _tell_closed(self) -> None:
        self._told_closed = True
        error = self._closed_error()
        self.counts["closed"] += 1
        _log.error("%s", error, extra=log.fields("connection_closed", error=self._nc.last_error))
        self._call(self._on_close, error)

    def _closed_error(self) -> ClosedError:
        return ClosedError(
            f"the NATS connection was closed; its last error: {self._nc.last_error}. nats-py closes a "
            "connection after max_reconnect_attempts or an error of the server: make another one with "
            "max_reconnect_attempts=-1, or let natsdisc.connect make it"
        )

    def _end_closing(self) -> None:
        """Close the socket for nats-py, which waits until a lost connection has said goodbye."""
        if self._own is not None:
            return  # it does so itself
        writer = getattr(getattr(self._nc, "_transport", None), "_io_writer", None)
        if writer is None or self.up or not writer.is_closing() or not self._nc.is_reconnecting:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = time.monotonic()
        elif time.monotonic() - self._closing_since > _CLOSING_TIMEOUT_S:
            self._closing_since = None
            self.counts["sockets_ended"] += 1
            abort(self._nc._transport)

    def _loop_of_connection(self) -> asyncio.AbstractEventLoop | None:
        task = getattr(self._nc, "_reading_task", None)
        return task.get_loop() if isinstance(task, asyncio.Task) else None
