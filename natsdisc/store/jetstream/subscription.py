"""A subscription whose messages go to one function at a time: by our parser, or in nats-py's public way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ...errors import StoreUnavailableError
from .messages import known_headers
from .parser import Message, Receive, WatchParser, install

__all__ = ["Subscription", "subscribed", "unsubscribed"]

# An unsubscribe that the connection does not take is given up: the server forgets it with the connection.
_UNSUBSCRIBE_TIMEOUT_S = 0.5


class Subscription:
    """Messages of one subject of `nc`, handed to `receive`."""

    def __init__(self, nc: Client, receive: Receive) -> None:
        self._receive = receive
        self._parser: WatchParser | None = install(nc)
        self._batch: list[Message] = []
        self._below: Any = None  # nats-py's

    def redirect(self, receive: Receive) -> None:
        """Hand what comes from now on to another function."""
        self._receive = receive
        if self._parser is not None and self._below is not None:
            self._parser.read(self._below, receive)

    async def open(self, nc: Client, subject: str) -> None:
        """Begin; raises what nats-py's `subscribe` does."""
        self._below = await nc.subscribe(
            subject, cb=self._take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if self._parser is not None:
            self._parser.read(self._below, self._receive)

    async def aclose(self) -> None:
        """End it, if the connection takes that in time."""
        try:
            await unsubscribed(self._below)
        finally:
            if self._parser is not None:
                self._parser.stop(self._below)

    async def _take(self, message: Msg) -> None:
        # The public way. Messages that nats-py has read at once come without a turn of the loop between.
        if not self._batch:
            asyncio.get_running_loop().call_soon(self._hand_over)
        headers = known_headers(message.headers)
        self._batch.append((message.subject, message.reply, headers, message.data))

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        self._receive(batch)


async def subscribed(nc: Client, subject: str, receive: Receive) -> Subscription:
    """Return a subscription to `subject`. Raises StoreUnavailableError."""
    subscription = Subscription(nc, receive)
    try:
        await subscription.open(nc, subject)
    except (NatsError, OSError) as error:
        raise StoreUnavailableError(f"could not subscribe to {subject}: {error}") from error
    return subscription


async def unsubscribed(subscription: Any) -> None:
    """End a nats-py subscription, if the connection takes that in time."""
    with suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(_UNSUBSCRIBE_TIMEOUT_S):
            await subscription.unsubscribe()
