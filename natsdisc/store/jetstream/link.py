"""A nats-py connection as natsdisc uses it: requests that are answered, refused or given up, never lost.

Works on a connection that the service owns: it sets no callback and changes no option. Nothing is handed to
nats-py while it is reconnecting, because it would keep the bytes and send them later, however old.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ...errors import ClosedError, DiscoveryError, PermissionDeniedError, StoreUnavailableError
from .direct import DirectClient, Message, Receive
from .guard import guard

__all__ = ["REQUEST_TIMEOUT", "Headers", "Link", "Msg", "Pending"]

Headers: TypeAlias = Mapping[str, str]

# A stream whose leader died needs about 5 s to elect another one (measured: 4.7 s); a caller who waits for
# an answer is told after that.
REQUEST_TIMEOUT = 6.0
# A server refuses a forbidden publish with an -ERR line and no answer. An answer that takes longer than
# this is a reason to look for such a line.
_SUSPICIOUS_AFTER = 0.1
# How often the connection is looked at: nats-py has one reconnect callback, and that is the user's.
_LOOK_EVERY = 0.2
# Errors of the connection that are kept to tell a refusal from silence.
_ERRORS_KEPT = 64


class Link:
    """Requests over `nc`, and a call when it is back after a break."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._inbox: str | None = None
        self._mailbox: Any = None
        self._mailbox_refused = False
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._on_break: dict[int, Callable[[], None]] = {}
        self._on_reconnect: dict[int, Callable[[], None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._errors: deque[tuple[int, str]] = deque(maxlen=_ERRORS_KEPT)
        self._error_count = 0
        self._last_error: Exception | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def connection(self) -> Client:
        """The nats-py connection below."""
        return self._nc

    @property
    def max_payload(self) -> int:
        """Bytes the server takes as one message, headers included."""
        return int(self._nc.max_payload)

    @property
    def server_version(self) -> str:
        """The version the connected server announced."""
        version = self._nc.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def up(self) -> bool:
        """Whether bytes can be sent now."""
        return bool(self._nc.is_connected)

    @property
    def breaks(self) -> int:
        """How often the connection was lost and made again."""
        return int(self._nc.stats["reconnects"])

    def on_break(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the connection is lost; the answer takes it back."""
        return self._listen(self._on_break, callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; the answer takes it back."""
        return self._listen(self._on_reconnect, callback)

    def note_error(self, error: Exception | None) -> None:
        """Remember what the server refused; a connection made by `connect` reports every error here."""
        if error is not None and error is not self._last_error:
            self._last_error = error
            self._error_count += 1
            # A permission that is taken away ends a subscription that was there.
            if self._inbox is not None and f'subscription to "{self._inbox.lower()}' in str(error):
                self._mailbox_refused = True
            self._errors.append((self._error_count, str(error)))

    async def ready(self, timeout: float = REQUEST_TIMEOUT) -> None:
        """Wait until the connection is up; raises StoreUnavailableError, ClosedError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.up:
                    self._check_open()
                    await asyncio.sleep(_LOOK_EVERY / 4)
        self._check_open()
        if not self.up:
            if "authorization" in str(self._nc.last_error).lower():
                raise PermissionDeniedError(f"the server refuses the credentials: {self._nc.last_error}")
            raise StoreUnavailableError(
                f"not connected to NATS for {timeout:g} s; the last error was: {self._nc.last_error}"
            )

    async def request(
        self, subject: str, payload: bytes = b"", headers: Headers | None = None, *, timeout: float
    ) -> Msg:
        """The answer to a message; raises StoreUnavailableError, PermissionDeniedError, ClosedError."""
        return await (await self.send(subject, payload, headers)).answer(timeout)

    async def send(self, subject: str, payload: bytes = b"", headers: Headers | None = None) -> Pending:
        """Send a message now or not at all; raises StoreUnavailableError, ClosedError."""
        self._check_open()
        if not self.up:
            raise StoreUnavailableError(f"not connected to NATS; the last error was: {self._nc.last_error}")
        try:
            inbox = await self._open_inbox()
        except (NatsError, OSError) as error:
            raise StoreUnavailableError(f"could not listen for answers: {error}") from error
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._waiting.pop(token, None) and None)
        self._waiting[token] = future
        self.note_error(self._nc.last_error)
        pending = Pending(self, subject, future, self._error_count)
        try:
            await self._nc.publish(
                subject, payload, reply=f"{inbox}.{token}", headers=dict(headers) if headers else None
            )
        except BaseException as error:
            future.cancel()
            if isinstance(error, (NatsError, OSError)):
                raise StoreUnavailableError(f"could not send to {subject}: {error}") from error
            raise
        return pending

    async def publish(self, subject: str, payload: bytes = b"") -> None:
        """Send a message that needs no answer; quietly nothing when the connection is down."""
        if self.up:
            with suppress(NatsError, OSError):
                await self._nc.publish(subject, payload)

    async def subscribe(self, subject: str, receive: Receive) -> Callable[[], Coroutine[None, None, None]]:
        """Hand every message of `subject` to `receive`, some at once; what comes back ends that."""
        batch: list[Message] = []

        def hand_over() -> None:
            messages = batch.copy()
            batch.clear()
            receive(messages)

        async def receive_message(message: Msg) -> None:
            # What nats-py has read at once comes without a turn of the loop between.
            if not batch:
                asyncio.get_running_loop().call_soon(hand_over)
            batch.append((message.subject, message.reply, message.headers, message.data))

        self._check_open()
        direct = self._nc if isinstance(self._nc, DirectClient) else None
        release = guard(self._nc) if direct is None else lambda: None
        try:
            subscription = await self._nc.subscribe(
                subject, cb=receive_message, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except BaseException as error:
            release()
            if isinstance(error, (NatsError, OSError)):
                raise StoreUnavailableError(f"could not subscribe to {subject}: {error}") from error
            raise

        if direct is not None:
            direct.read_directly(subscription._id, receive)

        async def unsubscribe() -> None:
            if direct is not None:
                direct.stop_reading(subscription._id)
            try:
                with suppress(NatsError, OSError):
                    await subscription.unsubscribe()
            finally:
                release()

        return unsubscribe

    def publish_soon(self, subject: str) -> None:
        """`publish` an empty message, without waiting for it."""
        task = asyncio.create_task(self.publish(subject))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def new_inbox(self) -> str:
        """A subject nobody else listens to."""
        return str(self._nc.new_inbox())

    async def close(self) -> None:
        """Let go of the connection, which stays open."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        self._fail_waiting(ClosedError("the Discovery was closed"))
        if self._mailbox is not None:
            with suppress(NatsError, OSError):
                await self._mailbox.unsubscribe()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the Discovery was closed")
        if self._nc.is_closed:
            raise ClosedError(f"the NATS connection was closed; its last error: {self._nc.last_error}")

    async def _open_inbox(self) -> str:
        self._look()
        if self._mailbox_refused and self._mailbox is not None:
            with suppress(NatsError, OSError):
                await self._mailbox.unsubscribe()
            self._inbox, self._mailbox_refused = None, False
        if self._inbox is None:
            # Set before the first await: a second caller's message then goes out behind this SUB.
            self._inbox = self.new_inbox()

            async def receive(message: Msg) -> None:
                future = self._waiting.get(message.subject.rpartition(".")[2])
                if future is not None and not future.done():
                    future.set_result(message)

            try:
                self._mailbox = await self._nc.subscribe(f"{self._inbox}.*", cb=receive)
            except BaseException:
                self._inbox = None
                raise
        return self._inbox

    def check_refusal(self, subject: str, errors_before: int) -> None:
        """Raise PermissionDeniedError if the server has refused `subject` since `errors_before`."""
        self.note_error(self._nc.last_error)
        for number, text in self._errors:
            if number <= errors_before:
                continue
            if f'publish to "{subject.lower()}"' in text:
                raise PermissionDeniedError(f"this NATS user may not publish to {subject}")
            if f'subscription to "{str(self._inbox).lower()}' in text:
                raise PermissionDeniedError(
                    f"this NATS user may not subscribe to its inbox {self._inbox}.*; "
                    "allow it, or set inbox_prefix to one that is allowed"
                )

    def _listen(
        self, listeners: dict[int, Callable[[], None]], callback: Callable[[], None]
    ) -> Callable[[], None]:
        token = next(self._tokens)
        listeners[token] = callback
        self._look()

        def forget() -> None:
            listeners.pop(token, None)

        return forget

    @staticmethod
    def _call(listeners: dict[int, Callable[[], None]]) -> None:
        for callback in list(listeners.values()):
            callback()

    def _look(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_breaks(), name="natsdisc-link")

    async def _look_for_breaks(self) -> None:
        up, breaks = self.up, self.breaks
        while not self._nc.is_closed:
            await asyncio.sleep(_LOOK_EVERY)
            if up and (not self.up or breaks != self.breaks):
                # Their answers went to the old connection.
                self._fail_waiting(StoreUnavailableError("the NATS connection broke before the answer came"))
                self._call(self._on_break)
            if breaks != self.breaks and self.up:
                breaks = self.breaks
                self._call(self._on_reconnect)
            up = self.up
        self._fail_waiting(ClosedError("the NATS connection was closed"))

    def _fail_waiting(self, error: DiscoveryError) -> None:
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(error)
                # Not every sender still waits: one that was cancelled has nobody to tell.
                future.exception()


class Pending:
    """A message that was sent and not answered yet."""

    def __init__(self, link: Link, subject: str, future: asyncio.Future[Msg], errors_before: int) -> None:
        self.subject = subject
        self._link = link
        self._future = future
        self._errors_before = errors_before

    async def answer(self, timeout: float = REQUEST_TIMEOUT) -> Msg:
        """Wait `timeout` seconds; raises StoreUnavailableError, PermissionDeniedError, ClosedError."""
        deadline = asyncio.get_running_loop().time() + timeout
        patience = _SUSPICIOUS_AFTER
        try:
            while not self._future.done():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    self._link.check_refusal(self.subject, self._errors_before)
                    raise StoreUnavailableError(
                        f"no answer to {self.subject} within {timeout:g} s: is there a server with "
                        "JetStream, and does the stream have a leader?"
                    )
                await asyncio.wait((self._future,), timeout=min(patience, left))
                patience *= 2
                if not self._future.done():
                    self._link.check_refusal(self.subject, self._errors_before)
            return self._future.result()
        finally:
            self._future.cancel()
