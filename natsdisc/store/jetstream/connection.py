"""A connection of our own, with settings that suit a registry better than nats-py's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from ...errors import InvalidValueError, PermissionDeniedError, StoreUnavailableError
from ...safe import without_credentials
from .direct import DirectClient

__all__ = ["Connection", "close_connection", "open_connection"]

# Two unanswered pings end a connection: a dead one is noticed within 12 s instead of 6 minutes.
_OPTIONS: dict[str, Any] = {
    "name": "natsdisc",
    "ping_interval": 4,
    "max_outstanding_pings": 1,
    # For ever: a registry that gives up after 60 tries never sees the server come back.
    "max_reconnect_attempts": -1,
}
_RECONNECT_WAIT = 0.25
_RESETS_FORGIVEN = 4
_CLOSE_TIMEOUT = 2.0
_SCHEMES = ("nats", "tls", "ws", "wss")
_REFUSALS = (
    "authorization violation",
    "authorization failed",
    "user authentication",
    "permissions violation",
)


class Connection:
    """A nats-py client that reports its errors to whoever listens, and to the user's `error_cb`."""

    def __init__(self) -> None:
        self.client = DirectClient()
        self.on_error: Callable[[Exception], None] = lambda error: None


async def open_connection(servers: str | list[str], options: dict[str, Any]) -> Connection:
    """Connect to one of `servers`, giving up when none of them takes us; `options` are nats-py's.

    Raises StoreUnavailableError, PermissionDeniedError, InvalidValueError.
    """
    count = _check(servers)
    connection = Connection()
    failures: list[Exception] = []
    connected = False
    all_failed = asyncio.Event()
    users_callback = options.get("error_cb")

    async def error_cb(error: Exception) -> None:
        connection.on_error(error)
        if not connected:
            failures.append(error)
            # A server that refuses credentials hangs up so fast that its words may be lost: ask again.
            resets = sum(isinstance(failure, ConnectionResetError) for failure in failures)
            if len(failures) >= count + min(resets, _RESETS_FORGIVEN * count):
                all_failed.set()
        if users_callback is not None:
            await users_callback(error)

    # nats-py waits the same time between all tries: a fleet should not come back in step.
    jitter = {"reconnect_time_wait": _RECONNECT_WAIT * random.uniform(0.8, 1.6)}  # noqa: S311
    settings = {**_OPTIONS, **jitter, **options, "error_cb": error_cb}
    try:
        connecting = asyncio.create_task(connection.client.connect(servers, **settings))
    except TypeError as error:
        raise InvalidValueError(f"nats-py does not know this option: {error}") from error
    failing = asyncio.create_task(all_failed.wait())
    try:
        await asyncio.wait((connecting, failing), return_when=asyncio.FIRST_COMPLETED)
        if connecting.done() and connecting.exception() is None:
            connected = True
            return connection
        cause = connecting.exception() if connecting.done() else failures[-1]
        # Refused credentials are told first, and then that the connection is gone.
        cause = next(filter(_is_refusal, failures), cause)
    finally:
        failing.cancel()
        if not connecting.done() or connecting.cancelled() or connecting.exception() is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await _discard(connection.client)
    assert cause is not None
    raise _translated(cause, servers) from cause


async def close_connection(client: Client) -> None:
    """Close `client`, and see its reconnecting end: nats-py cancels that and does not wait."""
    with suppress(NatsError, OSError):
        await client.close()
    reconnecting: asyncio.Task[None] | None = getattr(client, "_reconnection_task", None)
    if reconnecting is not None and not reconnecting.done():
        reconnecting.cancel()
        await asyncio.wait((reconnecting,), timeout=_CLOSE_TIMEOUT)


def _check(servers: str | list[str]) -> int:
    urls = [servers] if isinstance(servers, str) else list(servers)
    if not urls:
        raise InvalidValueError("no server URL was given")
    for url in urls:
        scheme, separator, _ = url.partition("://")
        if separator and scheme not in _SCHEMES:
            raise InvalidValueError(
                f"a NATS URL begins with {', '.join(_SCHEMES)}, not {scheme!r}: {_public(url)}"
            )
    return len(urls)


async def _discard(client: Client) -> None:
    """Close the socket of a client that did not get through."""
    # nats-py stumbles (before 2.14) or asserts when there is nothing to close yet.
    with suppress(NatsError, OSError, AssertionError, AttributeError):
        await client.close()


def _translated(error: BaseException, servers: str | list[str]) -> Exception:
    where = _public(servers)
    text = str(error) or type(error).__name__
    if _is_refusal(error):
        return PermissionDeniedError(f"{where} refused the credentials: {text}")
    if isinstance(error, NatsError) and "invalid" in text:
        return InvalidValueError(f"{where}: {text}")
    if isinstance(error, (NatsError, OSError, TimeoutError)):
        return StoreUnavailableError(f"cannot connect to {where}: {text}")
    return InvalidValueError(f"cannot connect to {where} with these options: {text}")


def _is_refusal(error: BaseException) -> bool:
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


def _public(servers: str | list[str]) -> str:
    """The URLs without the credentials they may hold."""
    return without_credentials(servers)
