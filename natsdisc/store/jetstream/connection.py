"""A connection of our own, with settings that suit a registry better than nats-py's."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import SecureConnWantedError

from ... import log
from ...errors import (
    InsecureConnectionError,
    InvalidValueError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from .client import OwnClient
from .known import is_known
from .outage import guarded, is_refusal
from .parser import install
from .transport import abort, is_encrypted
from .urls import parse_servers, public_urls, scrubbed

__all__ = ["Connection", "close_connection", "open_connection", "require_tls"]

_log = log.logger(__name__)

# Two unanswered pings end a connection: a dead one is noticed within 12 s instead of 6 minutes.
_OPTIONS: dict[str, Any] = {
    "name": "natsdisc",
    "ping_interval": 4,
    "max_outstanding_pings": 1,
    # For ever: a registry that gives up after 60 tries never sees the server come back.
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.25,
}
_CALLBACKS = (
    "disconnected_cb",
    "closed_cb",
    "discovered_server_cb",
    "reconnected_cb",
    "lame_duck_mode_cb",
)
_RESETS_FORGIVEN = 4
_FLUSH_TIMEOUT_S = 2
# `close_connection` takes at most this many seconds, and half of it for what nats-py does by itself.
_CLOSE_TIMEOUT_S = 2.0
_ENCRYPTED_SCHEMES = ("tls", "wss")
_warned_of_version = False


class Connection:
    """A nats-py client that reports its errors to `on_error`, and to the user's `error_cb`."""

    def __init__(self) -> None:
        self.client: Client = _new_client()
        self.on_error: Callable[[Exception], None] = lambda error: None


async def open_connection(
    servers: str | Sequence[str] | None, options: dict[str, Any], *, wait: float = 0.0
) -> Connection:
    """Connect to one of `servers`; `options` are nats-py's.

    For `wait` seconds (math.inf: for ever) it tries again when no server takes us; with 0 each is tried once.
    A tls:// URL, or `tls` in the options, means TLS with every server, those heard of later included.
    Raises StoreUnavailableError, InsecureConnectionError, PermissionDeniedError, InvalidValueError.
    """
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not wait >= 0:
        raise InvalidValueError(f"wait must be 0 s or more, or math.inf: {wait!r}")
    urls = parse_servers(servers)
    where = public_urls(urls)
    connection = Connection()
    client = connection.client
    _want_tls(client, urls, options, where)
    failures: list[Exception] = []
    connected = False
    all_failed = asyncio.Event()
    deadline = time.monotonic() + wait
    users_callback = guarded(options.get("error_cb"), "error_cb")
    if users_callback is not None and not inspect.iscoroutinefunction(users_callback):
        raise InvalidValueError("error_cb must be a coroutine function (async def)")

    def note(error: Exception) -> None:
        failures.append(error)
        if wait and len(failures) == len(urls):
            _log.warning(
                "cannot connect to %s: %s; trying on %s",
                where,
                scrubbed(str(error) or repr(error), urls, options),
                "until it works" if wait == math.inf else f"for {wait:g} s",
                extra=log.fields("waiting_for_server", servers=where, seconds=wait),
            )
        if time.monotonic() < deadline:
            del failures[: -2 * len(urls)]
            return
        # A server that refuses credentials hangs up so fast that its words may be lost: ask again.
        resets = sum(isinstance(failure, ConnectionResetError) for failure in failures)
        if len(failures) >= len(urls) + min(resets, _RESETS_FORGIVEN * len(urls)):
            all_failed.set()

    async def error_cb(error: Exception) -> None:
        connection.on_error(error)
        if not connected:
            note(error)
        elif isinstance(client, OwnClient) and not client.is_connected:
            client.outages.note_failure(error)
        if users_callback is not None:
            await users_callback(error)

    callbacks = {name: guarded(options[name], name) for name in _CALLBACKS if name in options}
    settings = {**_OPTIONS, **options, **callbacks, "error_cb": error_cb}
    try:
        connecting = asyncio.create_task(client.connect(urls, **settings), name="natsdisc-connect")
    except TypeError as error:
        raise InvalidValueError(f"nats-py does not know this option: {error}") from error
    failing = asyncio.create_task(all_failed.wait())
    try:
        await asyncio.wait(
            (connecting, failing),
            timeout=None if not wait or wait == math.inf else wait + settings.get("connect_timeout", 2),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if connecting.done() and connecting.exception() is None:
            # The limits of this user, such as its max_payload, stand in a line behind the first one.
            with suppress(NatsError, OSError):
                await client.flush(_FLUSH_TIMEOUT_S)
            connected = True
            return connection
        cause = connecting.exception() if connecting.done() else None
        cause = cause or (failures[-1] if failures else TimeoutError(f"no answer within {wait:g} s"))
        # Refused credentials are told first, and then that the connection is gone.
        cause = next(filter(_is_telling, failures), cause)
    finally:
        failing.cancel()
        if not connected:
            connecting.cancel()
            await asyncio.wait((connecting,), timeout=_CLOSE_TIMEOUT_S)
            await close_connection(client)
    raise _translated(cause, where, urls, options) from cause


async def close_connection(client: Client) -> None:
    """Close `client` within two seconds, whatever the server does, and see its tasks end. Raises nothing."""
    closing = asyncio.create_task(client.close(), name="natsdisc-close")
    try:
        await asyncio.wait((closing,), timeout=_CLOSE_TIMEOUT_S / 2)
        if not closing.done():
            abort(getattr(client, "_transport", None))
            await asyncio.wait((closing,), timeout=_CLOSE_TIMEOUT_S / 8)
    finally:
        abort(getattr(client, "_transport", None))
        left = {closing, *_tasks_of(client)} - {asyncio.current_task()}
        for task in left:
            task.cancel()
    _, stuck = await asyncio.wait(left, timeout=_CLOSE_TIMEOUT_S / 4)
    if closing.done() and not closing.cancelled():
        # nats-py stumbles (before 2.14) or asserts when there is nothing to close yet.
        error = closing.exception()
        if error is not None:
            _log.debug(
                "closing a NATS connection: %r", error, extra=log.fields("close_failed", error=repr(error))
            )
    for task in stuck:
        _log.error(
            "a task of a closed NATS connection does not end: %r",
            task,
            extra=log.fields("close_failed", error=repr(task)),
        )


def require_tls(client: Client) -> None:
    """Raise InsecureConnectionError unless a nats-py `client` of your own is connected through TLS now.

    nats-py connects in clear text to a server that offers no TLS, even if the URL says tls://. It does so in
    every reconnect too, so call this in a `reconnected_cb` as well; by then credentials were sent.
    A connection that `natsdisc.connect` makes never does that.

    >>> nc = await nats.connect("tls://nats.example:4222")  # doctest: +SKIP
    >>> natsdisc.require_tls(nc)  # doctest: +SKIP
    """
    if not client.is_connected:
        raise InsecureConnectionError("checked a NATS connection for TLS: it is not connected now")
    if not is_encrypted(client):
        url = client.connected_url
        where = f" to {url.hostname}:{url.port}" if url is not None else ""
        raise InsecureConnectionError(
            f"the NATS connection{where} is not encrypted, although TLS is required here: let the server "
            "require TLS, and change the credentials that this connection has sent"
        )


def _new_client() -> Client:
    global _warned_of_version
    if is_known():
        return OwnClient()
    if not _warned_of_version:
        _warned_of_version = True
        _log.warning(
            "this version of nats-py is not one of 2.12 to 2.16: a connection of natsdisc may be closed by a "
            "server's error, and reconnects and closes as slowly as nats-py does",
            extra=log.fields("unknown_nats_py"),
        )
    client = Client()
    install(client, own=True)
    return client


def _want_tls(client: Client, urls: list[str], options: dict[str, Any], where: str) -> None:
    wanted = options.get("tls") is not None or bool(options.get("tls_handshake_first"))
    wanted = wanted or any(url.partition("://")[0] in _ENCRYPTED_SCHEMES for url in urls)
    if not wanted:
        return
    if not isinstance(client, OwnClient):
        raise InsecureConnectionError(
            f"cannot connect to {where} with TLS: this version of nats-py is unknown, and might send "
            "credentials in clear text; install nats-py 2.12 to 2.16"
        )
    client.tls_wanted = True


def _tasks_of(client: Client) -> set[asyncio.Task[Any]]:
    names = ("_reconnection_task", "_reading_task", "_ping_interval_task", "_flusher_task")
    tasks = (getattr(client, name, None) for name in names)
    return {task for task in tasks if task is not None and not task.done()}


def _is_telling(error: Exception) -> bool:
    return is_refusal(error) or isinstance(error, SecureConnWantedError)


def _translated(error: BaseException, where: str, urls: list[str], options: dict[str, Any]) -> Exception:
    text = scrubbed(str(error) or type(error).__name__, urls, options)
    if isinstance(error, SecureConnWantedError):
        return InsecureConnectionError(
            f"cannot connect to {where}: TLS was asked for and the server offers none, so nothing was sent "
            "to it; let the server require TLS, or connect without tls:// and tls="
        )
    if is_refusal(error):
        return PermissionDeniedError(f"{where} refused the credentials: {text}")
    if isinstance(error, NatsError) and "invalid" in text:
        return InvalidValueError(f"{where}: {text}")
    if isinstance(error, (NatsError, OSError, TimeoutError)):
        return StoreUnavailableError(f"cannot connect to {where}: {text}")
    return InvalidValueError(f"cannot connect to {where} with these options: {text}")
