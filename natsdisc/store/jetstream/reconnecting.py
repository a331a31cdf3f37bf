"""A nats-py client that makes a lost connection again for ever, and whose end is bounded.

nats-py waits without bound for a socket to close, and ends its reconnecting over an exception that it does
not expect. This client changes that; `known.is_known` says whether the installed nats-py has what it uses.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import NoServersError

from ... import log
from .outage import LONGEST_PAUSE_S, Outages
from .transport import abort, end_gently, websocket_timeout

__all__ = ["ReconnectingClient"]

_log = log.logger(__name__)

_BUFFER_BYTES = 32768
# A server that another one named is forgotten after so many failed tries, unless it is still named.
_TRIES_OF_FORGOTTEN = 3
# The last bytes and a TLS goodbye have this many seconds to reach the server.
_GOODBYE_S = 0.25


class ReconnectingClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """The reconnects and the end of a nats-py client.

    `changed` is called, without arguments, whenever the connection is lost, is back, or is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: list[Callable[[], None]] = []
        self.outages = Outages()
        # Addresses of servers, as the last INFO named them.
        self.named: set[str] = set()

    @property
    def counts(self) -> Counter[str]:
        """The counters: breaks, reconnects, failed and refused attempts, errors, ended tasks."""
        return self.outages.counts

    # -- a connection is lost, and made again --

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_closed or self.is_reconnecting:
            return
        if self.options["allow_reconnect"]:
            self.outages.begin(e)
        await super()._process_op_err(e)
        self.tell()

    async def _attempt_reconnect(self) -> None:
        self.outages.begin(None)  # after `force_reconnect`
        await self._discard()
        self.tell()
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
            forgotten = server.discovered and server.uri.netloc not in self.named
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
        most = self.options["connect_timeout"]
        if s.uri.scheme not in ("ws", "wss"):
            self._transport = TcpTransport()
            await self._transport.connect(s.uri, buffer_size=_BUFFER_BYTES, connect_timeout=most)
            return
        self._transport = WebSocketTransport(ws_headers=self.options["ws_connection_headers"])
        settings = {"buffer_size": _BUFFER_BYTES, "connect_timeout": websocket_timeout(most)}
        # aiohttp itself waits five minutes for a server that accepts and says nothing.
        async with asyncio.timeout(most):
            if s.uri.scheme == "wss":
                await self._transport.connect_tls(s.uri, ssl_context=self.ssl_context, **settings)
            else:
                await self._transport.connect(s.uri, **settings)

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
        self.tell()

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

    def tell(self) -> None:
        """Call all that want to hear of a change."""
        for callback in list(self.changed):
            callback()
