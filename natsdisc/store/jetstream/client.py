"""The nats-py client of a connection that `connect` makes: only `close` ends it.

nats-py closes a connection over almost every error line of a server, waits without bound for a socket to
close, and ends its reconnecting over an exception it does not expect. This client changes exactly that. It
knows the internals of nats-py 2.12 to 2.16; `is_known` says whether the installed version has them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import AuthorizationError, NoServersError, SecureConnWantedError, StaleConnectionError
from nats.errors import Error as NatsError

from ... import log
from .direct import DirectClient
from .transport import abort, end_gently, is_encrypted, quieten

__all__ = ["OwnClient", "is_known", "is_refusal"]

_log = logging.getLogger(__name__)

_BUFFER_BYTES = 32768
# A pause between two tries of one server grows from `reconnect_time_wait` to this many seconds.
_LONGEST_PAUSE_S = 1.0
_PAUSE_GROWTH = 1.3
_MOST_STEPS = 10
# A connection that lasted less than this many seconds counts as a failed try.
_SHORT_LIVED_S = 2.0
# An error line that came this many seconds before the end of a connection is the reason for it.
_LAST_WORD_S = 1.0
# The last bytes and a TLS goodbye have this many seconds to reach the server.
_GOODBYE_S = 0.25
_REFUSALS = (
    "authorization violation",
    "authorization failed",
    "user authentication",
    "account authentication",
    "authentication timeout",
    "permissions violation",
)
_METHODS = (
    "_attempt_reconnect",
    "_close",
    "_connect_command",
    "_flusher",
    "_ping_interval",
    "_process_connect_init",
    "_process_err",
    "_process_info",
    "_process_op_err",
    "_process_pong",
    "_read_creds_user_jwt",
    "_read_creds_user_nkey",
    "_read_loop",
    "_select_next_server",
    "_send_ping",
    "_setup_nkeys_seed_connect",
)
_ATTRIBUTES = (
    "_current_server",
    "_error_cb",
    "_flush_queue",
    "_flusher_task",
    "_max_payload",
    "_nkeys_seed",
    "_pending",
    "_pending_data_size",
    "_ping_interval_task",
    "_pings_outstanding",
    "_pongs",
    "_reading_task",
    "_reconnection_task",
    "_server_pool",
    "_status",
    "_transport",
    "_user_credentials",
)


def is_known() -> bool:
    """Return whether the installed nats-py has the internals that `OwnClient` changes."""
    attributes = vars(Client())
    return all(callable(getattr(Client, name, None)) for name in _METHODS) and all(
        name in attributes for name in _ATTRIBUTES
    )


def is_refusal(error: BaseException | None) -> bool:
    """Return whether a server refuses credentials or a permission with this error."""
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


class OwnClient(DirectClient):
    """A nats-py client that reconnects for ever, and whose end is bounded.

    `changed` is called, without arguments, whenever the connection is lost, is back, or is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        # With TLS asked for, nothing is sent to a server before the connection is encrypted.
        self.tls_wanted = False
        self.changed: list[Callable[[], None]] = []
        self.counts: Counter[str] = Counter()
        # Whether the server has told what holds for this user; it does behind its first PONG.
        self.settled = False
        self._lost_at: float | None = None
        self._connected_at = 0.0
        self._short_lives = 0
        self._refusal_told = False
        self._repair: asyncio.Task[None] | None = None
        self._last_word: tuple[float, Exception] | None = None

    # -- what a server says --

    async def _process_err(self, err_msg: str) -> None:
        """Report an error line. Only the end of a connection ends it, which a server makes by closing it."""
        if "stale connection" in err_msg:
            await self._process_op_err(StaleConnectionError())
            return
        if "authorization violation" in err_msg:
            error: NatsError = AuthorizationError()
        else:
            error = NatsError("nats: " + err_msg.strip("'"))
        self._err = error
        self._last_word = (time.monotonic(), error)
        self.counts["errors"] += 1
        await self._error_cb(error)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.tls_wanted and info.get("tls_available"):
            info["tls_required"] = True  # nats-py goes without where it may
        await super()._process_info(info, initial_connection)
        most = info.get("max_payload")
        # nats-py looks at the first INFO only, which a server sends before it knows the account.
        if isinstance(most, int) and most > 0:
            self._max_payload = most
        if self._current_server is not None:
            scheme = self._current_server.uri.scheme
            for server in self._server_pool:
                # nats-py calls every server it hears of nats:// or tls://, those of websockets too.
                if server.discovered and server.uri.scheme != scheme:
                    server.uri = server.uri._replace(scheme=scheme)
        if not initial_connection:
            self._settle()

    async def _process_pong(self) -> None:
        if self._pongs:
            waiting = self._pongs.pop(0)
            # nats-py ends its read loop when nobody waits for this any more.
            if not waiting.done():
                waiting.set_result(True)
            self._pongs_received += 1
            self._pings_outstanding = 0
        self._settle()

    def _settle(self) -> None:
        if not self.settled and self.is_connected:
            self.settled = True
            self._tell()

    # -- the three tasks of a connection --

    async def _read_loop(self) -> None:
        await super()._read_loop()
        await self._check_ended(self._reading_task, "reading")

    async def _flusher(self) -> None:
        await super()._flusher()
        await self._check_ended(self._flusher_task, "writing")

    async def _ping_interval(self) -> None:
        """Ping for as long as the connection lasts; a ping that cannot be sent is one without an answer."""
        interval = self.options["ping_interval"]
        while True:
            await asyncio.sleep(interval)
            if not self.is_connected:
                continue
            self._pings_outstanding += 1
            if self._pings_outstanding > self.options["max_outstanding_pings"]:
                await self._process_op_err(StaleConnectionError())
                return
            with suppress(Exception):
                async with asyncio.timeout(interval):
                    await self._send_ping()

    async def _check_ended(self, task: asyncio.Task[None] | None, what: str) -> None:
        """Lose a connection whose task has ended by itself: it would stay, deaf or mute."""
        current = asyncio.current_task()
        if task is not current or current is None or current.cancelling() or not self.is_connected:
            return
        self.counts["tasks_ended"] += 1
        _log.error(
            "%s from NATS ended unexpectedly: making a new connection",
            what,
            extra=log.fields("connection_task_ended", task=what),
        )
        await self._process_op_err(NatsError(f"nats: {what} ended unexpectedly"))

    def check_tasks(self) -> None:
        """Lose a connection one of whose tasks somebody else has cancelled."""
        tasks = {
            "reading": self._reading_task,
            "writing": self._flusher_task,
            "pinging": self._ping_interval_task,
        }
        for what, task in tasks.items():
            if self.is_connected and self.settled and task is not None and task.done():
                self.counts["tasks_ended"] += 1
                _log.error(
                    "%s NATS was cancelled by somebody else: making a new connection",
                    what,
                    extra=log.fields("connection_task_ended", task=what),
                )
                self._repair = asyncio.create_task(self._process_op_err(NatsError(f"nats: {what} ended")))
                return

    # -- a connection is lost, and made again --

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_closed or self.is_reconnecting:
            return
        if self.options["allow_reconnect"]:
            self._lose(e)
        await super()._process_op_err(e)
        self._tell()

    async def _attempt_reconnect(self) -> None:
        self._lose(None)  # after `force_reconnect`
        await self._discard()
        self._tell()
        task = asyncio.current_task()
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception as error:
                self._err = error
                self.counts["failed_attempts"] += 1
                _log.error(
                    "reconnecting to NATS failed unexpectedly: %r; trying again",
                    error,
                    extra=log.fields("reconnect_broke", error=error),
                )
            if self.is_connected or self.is_closed or task is None or task.cancelling():
                return
            self._status = Client.RECONNECTING
            await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _select_next_server(self) -> None:
        """Connect to the next server that can be reached, for ever unless the user set a limit."""
        most = self.options["max_reconnect_attempts"]
        while True:
            await self._discard()
            if not self._server_pool:
                self._current_server = None
                raise NoServersError
            server = self._server_pool.pop(0)
            if 0 < most < server.reconnects:
                continue
            self._server_pool.append(server)
            await self._pause(server)
            try:
                await self._connect_to_server(server)
            except Exception as error:
                server.last_attempt = time.monotonic()
                server.reconnects += 1
                self._err = error
                await self._error_cb(error)
            else:
                self._current_server = server
                return

    async def _pause(self, server: Any) -> None:
        base = float(self.options["reconnect_time_wait"])
        steps = min(max(server.reconnects - 1, self._short_lives, 0), _MOST_STEPS)
        pause = min(base * _PAUSE_GROWTH**steps, max(base, _LONGEST_PAUSE_S))
        # A fleet that lost its server should not come back in step.
        pause *= random.uniform(0.4, 1.0)  # noqa: S311 (spreads load)
        last = max(server.last_attempt or 0.0, self._lost_at or 0.0)
        await asyncio.sleep(max(0.0, last + pause - time.monotonic()))

    async def _connect_to_server(self, s: Any) -> None:
        await self._discard()
        s.last_attempt = time.monotonic()
        settings = {"buffer_size": _BUFFER_BYTES, "connect_timeout": self.options["connect_timeout"]}
        if s.uri.scheme in ("ws", "wss"):
            self._transport = WebSocketTransport(ws_headers=self.options["ws_connection_headers"])
        else:
            self._transport = TcpTransport()
        if s.uri.scheme == "wss":
            await self._transport.connect_tls(s.uri, ssl_context=self.ssl_context, **settings)
        else:
            await self._transport.connect(s.uri, **settings)

    async def _process_connect_init(self) -> None:
        self.settled = False
        reconnecting = asyncio.current_task() is self._reconnection_task
        try:
            await super()._process_connect_init()
        except (OSError, NatsError, TimeoutError):
            raise
        except Exception as error:
            if not reconnecting:
                raise
            # nats-py would end over it; a callback or a file may be in order again next time.
            raise NatsError(f"{type(error).__name__}: {error}") from error
        if not self.is_connected:
            await self._discard()
            raise NatsError("nats: the server closed the connection before it took the credentials")
        self._connected_at = time.monotonic()
        quieten(self._transport)
        if reconnecting:
            self._return()

    def _connect_command(self) -> bytes:
        if self.tls_wanted and not is_encrypted(self):
            raise SecureConnWantedError
        if self._nkeys_seed is not None and self._user_credentials is None:
            self._setup_nkeys_seed_connect()  # the file may hold another key by now
        command: bytes = super()._connect_command()
        return command

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        # nats-py reads for ever in a file without this line, such as one that is just being written.
        return _line_after(creds, b"BEGIN NATS USER JWT")

    def _read_creds_user_nkey(self, creds: Any) -> bytearray:
        return _line_after(creds, b"BEGIN USER NKEY SEED")

    # -- the end --

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if status != Client.CLOSED:  # a first try that failed
            await self._discard()
            self._status = status
            return
        if self.is_connected and self._transport is not None:
            self._end_tasks()
            unsent = list(self._pending)
            self._drop_unsent()
            transport, self._transport = self._transport, None
            await end_gently(transport, unsent, _GOODBYE_S)
        reconnecting = self._reconnection_task
        if reconnecting is not None and reconnecting is not asyncio.current_task():
            reconnecting.cancel()
        await self._discard()
        if self._flush_queue is not None:  # not so before `connect` was called
            await super()._close(status, do_cbs)
        await self._discard()
        self._tell()

    def _end_tasks(self) -> None:
        current = asyncio.current_task()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not current:
                task.cancel()

    async def _discard(self) -> None:
        """Drop a connection with all that was meant for it: late bytes would do what is no longer wanted."""
        self._end_tasks()
        self._drop_unsent()
        while self._flush_queue is not None and not self._flush_queue.empty():
            waiting = self._flush_queue.get_nowait()
            if not waiting.done():
                waiting.set_result(None)
        transport, self._transport = self._transport, None
        if transport is None:
            return
        abort(transport)
        if isinstance(transport, WebSocketTransport):
            await end_gently(transport, [], _GOODBYE_S)
        else:
            await asyncio.sleep(0)

    def _drop_unsent(self) -> None:
        self._pending: list[bytes] = []
        self._pending_data_size = 0

    # -- what is told --

    def _tell(self) -> None:
        for callback in list(self.changed):
            callback()

    def _lose(self, error: Exception | None) -> None:
        if self._lost_at is not None:
            return
        now = time.monotonic()
        self._lost_at, self._refusal_told = now, False
        self._short_lives = self._short_lives + 1 if now - self._connected_at < _SHORT_LIVED_S else 0
        self.counts["breaks"] += 1
        reason: object = error or "asked to"
        # A server says why it closes a connection, and then the connection ends without a reason.
        if self._last_word is not None and now - self._last_word[0] < _LAST_WORD_S:
            reason = self._last_word[1]
        _log.warning(
            "lost the connection to NATS: %s; reconnecting until it is back",
            reason,
            extra=log.fields("disconnected", error=reason),
        )

    def _return(self) -> None:
        if self._lost_at is None:
            return
        seconds = time.monotonic() - self._lost_at
        self._lost_at = None
        self.counts["reconnects"] += 1
        _log.info(
            "connected to NATS again after %.1f s",
            seconds,
            extra=log.fields("reconnected", seconds=seconds),
        )

    def note_failure(self, error: Exception) -> None:
        """Count a failed try; a refusal of the credentials is logged once in an outage."""
        if self._lost_at is None:
            return
        self.counts["failed_attempts"] += 1
        if is_refusal(error) or isinstance(error, SecureConnWantedError):
            self.counts["refused_attempts"] += 1
            if not self._refusal_told:
                self._refusal_told = True
                _log.warning(
                    "the server does not take the connection back: %s; trying on",
                    error,
                    extra=log.fields("reconnect_refused", error=error),
                )


def guarded(
    callback: Callable[..., Coroutine[Any, Any, None]] | None, name: str
) -> Callable[..., Coroutine[Any, Any, None]] | None:
    """Return a user's nats-py callback that raises nothing: nats-py would end its reconnecting over that."""
    if callback is None or not inspect.iscoroutinefunction(callback):
        return callback

    async def call(*arguments: Any) -> None:
        try:
            await callback(*arguments)
        except Exception:
            _log.exception("%s raised", name, extra=log.fields("callback_failed", callback=name))

    return call


def _line_after(credentials: Any, mark: bytes) -> bytearray:
    path = credentials if isinstance(credentials, (str, Path)) else None
    text = Path(path).read_bytes() if path is not None else str(credentials).encode()
    lines = iter(text.splitlines())
    for line in lines:
        if mark in line:
            found = next(lines, b"").strip()
            if found:
                return bytearray(found)
    raise NatsError(f"nats: the credentials {path or 'given'} have no line after {mark.decode()!r}")
