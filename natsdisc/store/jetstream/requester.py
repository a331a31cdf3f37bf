"""A nats-py connection as natsdisc uses it: requests that are answered, refused or given up, never lost.

Works on a connection that the service owns: it sets no callback and changes no option. Nothing is handed to
nats-py while it is reconnecting, because it would keep the bytes and send them later, however old.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ... import log
from ...errors import (
    ClosedError,
    PayloadTooLargeError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from .limits import Limits, size_of
from .liveness import Liveness
from .mailbox import Mailbox
from .parser import Receive
from .pending import REQUEST_TIMEOUT, Judge, Pending
from .room import Room
from .subscription import Subscription, subscribed

__all__ = ["REQUEST_TIMEOUT", "Headers", "Msg", "Pending", "Requester"]

_log = log.logger(__name__)

Headers: TypeAlias = Mapping[str, str]

# Errors of the connection that are kept to tell a refusal from silence.
_ERRORS_KEPT = 64


class Requester:
    """Requests over `nc`, and a call when it is back after a break."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._mailbox = Mailbox(nc)
        self._live = Liveness(nc, self._mailbox.fail)
        self._room = Room(nc)
        self._limits = Limits(nc)
        self._errors: deque[tuple[int, str]] = deque(maxlen=_ERRORS_KEPT)
        self._error_count = 0
        self._last_error: Exception | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    @property
    def connection(self) -> Client:
        """The nats-py connection below."""
        return self._nc

    @property
    def counts(self) -> Counter[str]:
        """The counters: breaks, failed and refused attempts, errors, ended tasks, and so on."""
        return self._live.counts + self._mailbox.counts + Counter(getattr(self._nc, "counts", {}))

    @property
    def max_payload(self) -> int:
        """Bytes the server takes as one message, headers included."""
        return self._limits.max_payload

    @property
    def server_version(self) -> str:
        """The version the connected server announced."""
        version = self._nc.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def up(self) -> bool:
        """Whether bytes can be sent now."""
        return self._live.up

    @property
    def server_id(self) -> str:
        """The id of the connected server; a server that is started again has another one."""
        info: dict[str, Any] = getattr(self._nc, "_server_info", None) or {}
        return str(info.get("server_id", ""))

    @property
    def breaks(self) -> int:
        """How often the connection was lost and made again."""
        return self._live.generation

    def on_break(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is lost; returns a function that ends this."""
        return self._live.on_break(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; returns a function that ends this."""
        return self._live.on_reconnect(callback)

    def on_close(self, callback: Callable[[ClosedError], None]) -> Callable[[], None]:
        """Call `callback` when nats-py has closed the connection; returns a function that ends this."""
        return self._live.on_close(callback)

    @property
    def listeners(self) -> int:
        """How many callbacks are called when the connection changes."""
        return self._live.listeners

    def note_error(self, error: Exception | None) -> None:
        """Remember what the server refused; a connection made by `connect` reports every error here."""
        if error is not None and error is not self._last_error:
            self._last_error = error
            self._error_count += 1
            text = str(error).lower()
            self._mailbox.note_error(text, self.breaks)
            if "maximum payload violation" in text:
                self._limits.violated(self._mailbox.sizes)
            self._errors.append((self._error_count, text))

    async def look_at_limit(self) -> None:
        """Find out whether the server takes larger messages than it told; see `Limits.look`."""
        await self._limits.look()

    async def ready(self, timeout: float = REQUEST_TIMEOUT) -> None:
        """Wait until the connection is up.

        Raises StoreUnavailableError, which is a PermissionDeniedError too while the server refuses the
        credentials, ClosedError, WrongLoopError.
        """
        await self._live.ready(timeout)

    async def ping(self, timeout: float) -> None:
        """Return when the server has answered a PING; wait `timeout` seconds at most.

        Raises what `ready` raises, and StoreUnavailableError when no answer comes.
        """
        deadline = time.monotonic() + timeout
        await self.ready(timeout)
        left = max(0.001, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await self._nc.flush(math.ceil(left))
        except (NatsError, OSError) as error:  # a TimeoutError too
            raise StoreUnavailableError(
                f"no answer to a PING within {timeout:g} s: {error!r}; look whether nats-server runs"
            ) from error

    async def request(
        self, subject: str, payload: bytes = b"", headers: Headers | None = None, *, timeout: float
    ) -> Msg:
        """Return the answer to a message.

        Raises StoreUnavailableError, PermissionDeniedError, PayloadTooLargeError, ClosedError.
        """
        return await (await self.send(subject, payload, headers, timeout=timeout)).answer(timeout)

    async def send(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Headers | None = None,
        *,
        timeout: float = REQUEST_TIMEOUT,
        judge: Judge | None = None,
    ) -> Pending:
        """Send a message now or, if the connection takes no bytes for `timeout` seconds, not at all.

        Where more than one may answer, `judge` tells which answer counts.

        Raises StoreUnavailableError, PayloadTooLargeError, ClosedError, WrongLoopError.
        """
        self._check_up(subject)
        size = size_of(payload, headers)
        most = self._limits.max_payload
        if size > most:
            raise PayloadTooLargeError(
                f"could not send to {subject}: {size} bytes with headers, and the server takes {most} "
                "(max_payload of the server, the account or the user): make it smaller or raise the limit"
            )
        deadline = time.monotonic() + timeout
        self._live.watch()
        try:
            inbox = await self._mailbox.open()
        except (NatsError, OSError) as error:
            raise StoreUnavailableError(f"could not listen for answers: {error}") from error
        await self._room.wait(subject, size, deadline)
        # From here on nothing else runs until nats-py has the message.
        self._check_up(subject)
        self.note_error(self._nc.last_error)
        pending = Pending(subject, size, self.breaks, self._error_count, self.check_refusal, judge)
        token = self._mailbox.expect(pending)
        try:
            publishing = self._nc.publish(
                subject, payload, reply=f"{inbox}.{token}", headers=dict(headers) if headers else None
            )
            await self._room.publish(publishing, subject, size, deadline)
        except BaseException as error:
            pending.future.cancel()
            if isinstance(error, (NatsError, OSError)):
                raise StoreUnavailableError(f"could not send to {subject}: {error}") from error
            raise
        return pending

    async def publish(self, subject: str, payload: bytes = b"") -> None:
        """Send a message that needs no answer; quietly nothing when the connection takes none."""
        if self.up and self._room.has(len(payload)):
            with suppress(NatsError, OSError):
                await self._nc.publish(subject, payload)

    async def subscribe(self, subject: str, receive: Receive) -> Subscription:
        """Hand every message of `subject` to `receive`, some at once, until the subscription is closed.

        Raises StoreUnavailableError, ClosedError.
        """
        self._live.check()
        return await subscribed(self._nc, subject, receive)

    def publish_soon(self, subject: str) -> None:
        """`publish` an empty message, without waiting for it."""
        task = asyncio.create_task(self.publish(subject))
        self._publishing.add(task)
        task.add_done_callback(self._note_published)

    def new_inbox(self) -> str:
        """Return a subject for this Requester alone, which nobody can guess from an earlier one."""
        return f"{self._nc.new_inbox()}{secrets.token_hex(8)}"

    async def close(self) -> None:
        """Let go of the connection, which stays open."""
        await self._live.close()
        self._mailbox.fail(self.breaks + 1, ClosedError("the Discovery was closed"))
        await self._mailbox.close()

    def _check_up(self, subject: str) -> None:
        self._live.check()
        if not self.up:
            raise StoreUnavailableError(
                f"could not send to {subject}: not connected to NATS; the last error: {self._nc.last_error}"
            )

    def _note_published(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._live.counts["publishes_failed"] += 1
            _log.warning(
                "a message without an answer was not sent: %r",
                task.exception(),
                extra=log.fields("not_published", error=task.exception()),
            )

    def check_refusal(self, subject: str, errors_before: int) -> None:
        """Raise what the server has said against `subject` since `errors_before`.

        Raises PermissionDeniedError, and StoreUnavailableError for one subscription too many.
        """
        self.note_error(self._nc.last_error)
        for number, text in self._errors:
            if number <= errors_before:
                continue
            if f'publish to "{subject.lower()}"' in text:
                raise PermissionDeniedError(f"this NATS user may not publish to {subject}")
            if self._mailbox.is_meant(text):
                raise PermissionDeniedError(
                    f"this NATS user may not subscribe to its inbox {self._mailbox.inbox}.*; "
                    "allow it, or set inbox_prefix to one that is allowed"
                )
            if "maximum subscriptions exceeded" in text and self._mailbox.refused:
                raise StoreUnavailableError(
                    f"asked {subject} and cannot listen for the answer: this account, user or server allows "
                    "no more subscriptions on a connection; raise the limit or watch fewer queries"
                )
