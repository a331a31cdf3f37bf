"""A nats-py connection as natsdisc uses it: requests that are answered, refused or given up, never lost.

Works on a connection that the service owns: it sets no callback and changes no option. Nothing is handed to
nats-py while it is reconnecting, because it would keep the bytes and send them later, however old.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ... import log
from ...errors import (
    ClosedError,
    DiscoveryError,
    PayloadTooLargeError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from .limits import Limits, size_of
from .liveness import Liveness
from .messages import known_headers
from .parser import Message, Receive, install
from .pending import REQUEST_TIMEOUT, Pending

__all__ = ["REQUEST_TIMEOUT", "Headers", "Link", "Msg", "Pending"]

_log = logging.getLogger(__name__)

Headers: TypeAlias = Mapping[str, str]

# Errors of the connection that are kept to tell a refusal from silence.
_ERRORS_KEPT = 64
# nats-py keeps this many bytes that are not sent yet before it lets a caller wait, without bound.
_UNSENT_BYTES = 2 * 1024 * 1024
_ROOM_LOOK_EVERY_S = 0.01
# An unsubscribe that the connection does not take is given up: the server forgets it with the connection.
_UNSUBSCRIBE_TIMEOUT_S = 0.5


class Link:
    """Requests over `nc`, and a call when it is back after a break."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._live = Liveness(nc, self._fail_waiting)
        self._limits = Limits(nc)
        self._inbox: str | None = None
        self._mailbox: Any = None
        self._mailbox_refused = False
        self._answered_in = -1  # the generation in which the last answer came
        self._tokens = itertools.count()
        self._waiting: dict[str, Pending] = {}
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
        """What was counted: breaks, failed and refused attempts, errors, ended tasks, and so on."""
        return self._live.counts + Counter(getattr(self._nc, "counts", ()))

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
            # A permission that is taken away ends a subscription that was there.
            if self._inbox is not None and f'subscription to "{self._inbox.lower()}' in text:
                self._mailbox_refused = True
            # This does not say which one; it was ours if no answer ever came there.
            if "maximum subscriptions exceeded" in text and self._answered_in != self.breaks:
                self._mailbox_refused = True
            if "maximum payload violation" in text:
                self._limits.violated([pending.size for pending in self._waiting.values()])
            self._errors.append((self._error_count, text))

    async def ready(self, timeout: float = REQUEST_TIMEOUT) -> None:
        """Wait until the connection is up.

        Raises StoreUnavailableError, which is a PermissionDeniedError too while the server refuses the
        credentials, ClosedError, WrongLoopError.
        """
        await self._live.ready(timeout)

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
    ) -> Pending:
        """Send a message now or, if the connection takes no bytes for `timeout` seconds, not at all.

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
        try:
            inbox = await self._open_inbox()
        except (NatsError, OSError) as error:
            raise StoreUnavailableError(f"could not listen for answers: {error}") from error
        await self._wait_for_room(subject, size, deadline)
        # From here on nothing else runs until nats-py has the message.
        self._check_up(subject)
        # Somebody who can write to our inbox must not guess where the next answer is awaited.
        token = secrets.token_hex(8)
        self.note_error(self._nc.last_error)
        pending = Pending(subject, size, self.breaks, self._error_count, self.check_refusal)
        pending.future.add_done_callback(lambda _: self._waiting.pop(token, None) and None)
        self._waiting[token] = pending
        try:
            publishing = self._nc.publish(
                subject, payload, reply=f"{inbox}.{token}", headers=dict(headers) if headers else None
            )
            if size < _UNSENT_BYTES:
                await publishing
            else:
                await self._bounded(publishing, subject, deadline)
        except BaseException as error:
            pending.future.cancel()
            if isinstance(error, (NatsError, OSError)):
                raise StoreUnavailableError(f"could not send to {subject}: {error}") from error
            raise
        return pending

    async def publish(self, subject: str, payload: bytes = b"") -> None:
        """Send a message that needs no answer; quietly nothing when the connection takes none."""
        if self.up and self._has_room(len(payload)):
            with suppress(NatsError, OSError):
                await self._nc.publish(subject, payload)

    async def subscribe(self, subject: str, receive: Receive) -> Callable[[], Coroutine[None, None, None]]:
        """Hand every message of `subject` to `receive`, some at once; return a function that ends that.

        Raises StoreUnavailableError, ClosedError.
        """
        batch: list[Message] = []

        def hand_over() -> None:
            messages = batch.copy()
            batch.clear()
            receive(messages)

        async def receive_message(message: Msg) -> None:
            # The public way. Messages that nats-py has read at once come without a turn of the loop between.
            if not batch:
                asyncio.get_running_loop().call_soon(hand_over)
            headers = known_headers(message.headers)
            batch.append((message.subject, message.reply, headers, message.data))

        self._live.check()
        parser = install(self._nc)
        try:
            subscription = await self._nc.subscribe(
                subject, cb=receive_message, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except (NatsError, OSError) as error:
            raise StoreUnavailableError(f"could not subscribe to {subject}: {error}") from error
        stop = parser.read(subscription, receive) if parser is not None else lambda: None

        async def unsubscribe() -> None:
            try:
                await _unsubscribe(subscription)
            finally:
                stop()

        return unsubscribe

    def publish_soon(self, subject: str) -> None:
        """`publish` an empty message, without waiting for it."""
        task = asyncio.create_task(self.publish(subject))
        self._publishing.add(task)
        task.add_done_callback(self._note_published)

    def new_inbox(self) -> str:
        """Return a subject that only this Link listens to, and that nobody can guess from an earlier one."""
        return f"{self._nc.new_inbox()}{secrets.token_hex(8)}"

    async def close(self) -> None:
        """Let go of the connection, which stays open."""
        await self._live.close()
        self._fail_waiting(self.breaks + 1, ClosedError("the Discovery was closed"))
        if self._mailbox is not None:
            await _unsubscribe(self._mailbox)

    def _check_up(self, subject: str) -> None:
        self._live.check()
        if not self.up:
            raise StoreUnavailableError(
                f"could not send to {subject}: not connected to NATS; the last error: {self._nc.last_error}"
            )

    def _has_room(self, size: int) -> bool:
        """Return whether nats-py takes so many bytes without a wait; one large message waits for its turn."""
        unsent = int(self._nc.pending_data_size)
        return unsent == 0 or unsent + size < _UNSENT_BYTES

    async def _wait_for_room(self, subject: str, size: int, deadline: float) -> None:
        while not self._has_room(size):
            self._check_up(subject)
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"could not send to {subject}: the NATS connection takes no more bytes; the last error: "
                    f"{self._nc.last_error}"
                )
            await asyncio.sleep(_ROOM_LOOK_EVERY_S)

    @staticmethod
    async def _bounded(publishing: Coroutine[Any, Any, None], subject: str, deadline: float) -> None:
        # nats-py swallows a cancellation here, so a timeout around it would not end.
        task = asyncio.ensure_future(publishing)
        try:
            await asyncio.wait((task,), timeout=max(0.0, deadline - time.monotonic()))
        finally:
            task.cancel()
        if not task.done():
            raise StoreUnavailableError(f"could not send to {subject}: the NATS connection takes no bytes")
        task.result()

    def _note_published(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._live.counts["publishes_failed"] += 1
            _log.warning(
                "a message without an answer was not sent: %r",
                task.exception(),
                extra=log.fields("not_published", error=task.exception()),
            )

    async def _open_inbox(self) -> str:
        self._live.watch()
        # nats-py hands answers over in a task of its own, which somebody may have cancelled.
        delivering = getattr(self._mailbox, "_wait_for_msgs_task", None)
        if delivering is not None and delivering.done() and not self._nc.is_closed:
            self._live.counts["tasks_restarted"] += 1
            _log.error(
                "answers were not delivered any more", extra=log.fields("task_restarted", task="answers")
            )
            self._mailbox_refused = True
        if self._mailbox_refused and self._mailbox is not None:
            mailbox, self._mailbox, self._inbox, self._mailbox_refused = self._mailbox, None, None, False
            await _unsubscribe(mailbox)
        if self._inbox is None:
            # Set before the first await: a second caller's message then goes out behind this SUB.
            self._inbox = self.new_inbox()

            async def receive(message: Msg) -> None:
                pending = self._waiting.get(message.subject.rpartition(".")[2])
                if pending is not None and not pending.future.done():
                    self._answered_in = pending.generation
                    pending.future.set_result(message)

            try:
                self._mailbox = await self._nc.subscribe(f"{self._inbox}.*", cb=receive)
            except BaseException:
                self._inbox = None
                raise
        return self._inbox

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
            if f'subscription to "{str(self._inbox).lower()}' in text:
                raise PermissionDeniedError(
                    f"this NATS user may not subscribe to its inbox {self._inbox}.*; "
                    "allow it, or set inbox_prefix to one that is allowed"
                )
            if "maximum subscriptions exceeded" in text and self._mailbox_refused:
                raise StoreUnavailableError(
                    f"asked {subject} and cannot listen for the answer: this account, user or server allows "
                    "no more subscriptions on a connection; raise the limit or watch fewer queries"
                )

    def _fail_waiting(self, generation: int, error: DiscoveryError) -> None:
        """End with `error` what was sent on a connection before `generation`."""
        for pending in list(self._waiting.values()):
            if pending.generation < generation and not pending.future.done():
                pending.future.set_exception(error)
                # Not every sender still waits: one that was cancelled has nobody to tell.
                pending.future.exception()


async def _unsubscribe(subscription: Any) -> None:
    with suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(_UNSUBSCRIBE_TIMEOUT_S):
            await subscription.unsubscribe()
