"""The nats-py client of a connection that `connect` makes: only `close` ends it.

nats-py closes a connection over almost every error line of a server. This client changes that. It uses the
internals of nats-py 2.12 to 2.16; `known.is_known` says whether the installed version has them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from nats.errors import AuthorizationError, SecureConnWantedError, StaleConnectionError
from nats.errors import Error as NatsError

from ... import log
from .credentials import line_after
from .parser import install
from .reconnecting import ReconnectingClient
from .transport import is_encrypted, quieten

__all__ = ["OwnClient"]

_log = log.logger(__name__)

_CREDENTIALS = ("user", "password", "token")


class OwnClient(ReconnectingClient):
    """A nats-py client that only `close` ends, whatever its servers say and its tasks do."""

    def __init__(self) -> None:
        super().__init__()
        install(self, own=True)
        # With TLS asked for, nothing is sent to a server before the connection is encrypted.
        self.tls_wanted = False
        # Whether the server has told what holds for this user; it does behind its first PONG.
        self.settled = False
        # The server's limits before it knew the account.
        self.first_max_payload: int | None = None
        self._repair: asyncio.Task[None] | None = None

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
            self.named = set(info["connect_urls"])
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
            self.tell()

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

    # -- a connection begins --

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
