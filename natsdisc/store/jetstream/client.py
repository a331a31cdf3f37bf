"""The nats-py client of a connection that `connect` makes: only `close` ends it.

nats-py closes a connection over almost every error line of a server, waits without bound for a socket to
close, and ends its reconnecting over an exception it does not expect. This client changes exactly that. It
uses the internals of nats-py 2.12 to 2.16; `known.is_known` says whether the installed version has them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import AuthorizationError, NoServersError, SecureConnWantedError, StaleConnectionError
from nats.errors import Error as NatsError

from ... import log
from .credentials import line_after
from .outage import LONGEST_PAUSE_S, Outages
from .parser import install
from .transport import abort, end_gently, is_encrypted, quieten

__all__ = ["OwnClient"]

_log = log.logger(__name__)

_BUFFER_BYTES = 32768
_CREDENTIALS = ("user", "password", "token")
# A server that another one named is forgotten after so many failed tries, unless it is still named.
_TRIES_OF_FORGOTTEN = 3
# The last bytes and a TLS goodbye have this many seconds to reach the server.
_GOODBYE_S = 0.25


class OwnClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """A nats-py client that reconnects for ever, and whose end is bounded.

    `changed` is called, without arguments, whenever the connection is lost, is back, or is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        install(self, own=True)
        # With TLS asked for, nothing is sent to a server before the connection is encrypted.
        self.tls_wanted = False
        self.changed: list[Callable[[], None]] = []
        self.outages = Outages()
        # Whether the server has told what holds for this user; it does behind its first PONG.
        self.settled = False
        # What the server told before it knew the account.
        self.first_max_payload: int | None = None
        self._named: set[str] = set()
        self._repair: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Counter[str]:
        """What was counted: breaks, reconnects, failed and refused attempts, errors, ended tasks."""
        return self.outages.counts

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
        self.outages.note_word(error)
        await self._error_cb(error)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.tls_wanted and info.get("tls_available"):
            info["tls_required"] = True  # nats-py goes without where it may
        await super()._process_info(info, initial_connection)
        most = info.get("max_payload")
        # nats-py looks at the first INFO only, which a server sends before it knows the account.
        if isinstance(most, int) and most > 0:
            self._max_payload = most
            if initial_connection:
                self.first_max_payload = most
        if info.get("connect_urls"):
            self._named = set(info["connect_urls"])
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
            self.outages.begin(e)
        await super()._process_op_err(e)
        self._tell()

    async def _attempt_reconnect(self) -> None:
        self.outages.begin(None)  # after `force_reconnect`
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
            await asyncio.sleep(LONGEST_PAUSE_S)

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
            # Where nodes come and go, the addresses of all that ever were would take longer and longer.
            forgotten = server.discovered and server.uri.netloc not in self._named
            if forgotten and server.reconnects >= _TRIES_OF_FORGOTTEN and self._server_pool:
                continue
            self._server_pool.append(server)
            base = float(self.options["reconnect_time_wait"])
            await self.outages.pause(base, server.last_attempt)
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
        self.outages.end()
        quieten(self._transport)

    def _connect_command(self) -> bytes:
        if self.tls_wanted and not is_encrypted(self):
            raise SecureConnWantedError
        if self._nkeys_seed is not None and self._user_credentials is None:
            self._setup_nkeys_seed_connect()  # the file may hold another key by now
        # nats-py calls these itself from 2.13 on, or later.
        callbacks = {name: self.options[name] for name in _CREDENTIALS if callable(self.options[name])}
        self.options.update({name: callback() for name, callback in callbacks.items()})
        try:
            command: bytes = super()._connect_command()
        finally:
            self.options.update(callbacks)
        return command

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        # nats-py reads for ever in a file without this line, such as one that is just being written.
        return line_after(creds, b"BEGIN NATS USER JWT")

    def _read_creds_user_nkey(self, creds: Any) -> bytearray:
        return line_after(creds, b"BEGIN USER NKEY SEED")

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
