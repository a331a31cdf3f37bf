"""One ephemeral push consumer: asked for, held back until it is wanted, and deleted."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import StoreUnavailableError, UnsupportedServerError
from .api import MAXIMUM_CONSUMERS, STREAM_NOT_FOUND, ApiError, BusyError, JetStreamApi
from .consumer_limit import lift_consumer_limit
from .parser import Message, Receive
from .requests import first_answer
from .stream import Stream
from .subscription import Subscription

__all__ = ["IDLE_HEARTBEAT_S", "Consumer", "open_consumer"]

# The server says so when it has nothing to say.
IDLE_HEARTBEAT_S = 1.5
# The server removes a consumer that nobody listens to after this, should we die before we can.
_INACTIVE_THRESHOLD_S = 10.0
# A reply may stand behind 32 MB of a large snapshot.
_BUSY_TIMEOUT_S = 15.0
_NS = 1_000_000_000


class Consumer:
    """A consumer on the server and the subscription to it; `info` is what the server said of it.

    Its messages are kept until `start`. Those are few: before flow control is answered the server sends two
    megabytes at most.
    """

    def __init__(self, api: JetStreamApi, stream: Stream, filter: str) -> None:
        self.name = secrets.token_hex(11)
        self.info: dict[str, Any] = {}
        self.asked_at = 0.0
        self._api = api
        self._stream = stream
        self._filter = filter
        self._held: list[Message] = []
        self._subscription: Subscription | None = None

    async def request(self, timeout: float) -> bool:
        """Ask the server to make it, and wait `timeout` seconds; False when there is no such stream.

        Raises StoreUnavailableError for what can pass, UnsupportedServerError, PermissionDeniedError.
        """
        inbox = self._api.requester.new_inbox()
        self._subscription = await self._api.requester.subscribe(inbox, self._held.extend)
        config = {
            "name": self.name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "filter_subject": self._filter,
            "flow_control": True,
            "idle_heartbeat": int(IDLE_HEARTBEAT_S * _NS),
            "inactive_threshold": int(_INACTIVE_THRESHOLD_S * _NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        # The filter stands in the subject, so that permissions can confine a reader to a namespace.
        subject = f"CONSUMER.CREATE.{self._stream.name}.{self.name}.{self._filter}"
        body = {"stream_name": self._stream.name, "config": config}
        try:
            self.info = await self._api.call(subject, body, timeout=timeout)
        except BusyError as error:
            if error.err_code == MAXIMUM_CONSUMERS:
                await lift_consumer_limit(self._stream)
            raise
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return False
            if error.code >= 500:
                raise StoreUnavailableError(str(error)) from error
            raise UnsupportedServerError(f"cannot watch {self._filter}: {error}") from error
        return True

    @property
    def node(self) -> str | None:
        """The cluster's node that it is read from; None without a cluster."""
        with self._api.understanding(f"CONSUMER.CREATE.{self._stream.name}"):
            leader = (self.info.get("cluster") or {}).get("leader")
        return None if leader is None else str(leader)

    @property
    def pending(self) -> int:
        """How many messages its snapshot has. Raises MalformedReplyError."""
        with self._api.understanding(f"CONSUMER.CREATE.{self._stream.name}"):
            return int(self.info["num_pending"])

    def start(self, receive: Receive) -> None:
        """Hand `receive` what came until now, and all that comes from now on."""
        if self._subscription is not None:
            self._subscription.redirect(receive)
        held, self._held = self._held, []
        if held:
            receive(held)

    async def aclose(self) -> None:
        """End the subscription, and delete it on the server; more calls change nothing."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        subscription.redirect(_ignore)
        self._held.clear()
        try:
            await subscription.aclose()
        finally:
            await self._api.tell(f"CONSUMER.DELETE.{self._stream.name}.{self.name}")


def _ignore(messages: Sequence[Message]) -> None:
    """Take what is still on its way to a consumer that is closed."""


async def open_consumer(
    api: JetStreamApi, stream: Stream, filter: str, *, is_busy: Callable[[], bool]
) -> Consumer | None:
    """Return a new consumer with `filter`, from the first request that is answered; None without a stream.

    While `is_busy` answers may take long, and no request is repeated. Raises what `Consumer.request` raises.
    """
    loop, pace = asyncio.get_running_loop(), api.pace
    started = loop.time()
    tried: list[Consumer] = []
    opened: Consumer | None = None

    async def ask() -> tuple[Consumer, bool]:
        consumer = Consumer(api, stream, filter)
        consumer.asked_at = loop.time()
        tried.append(consumer)
        return consumer, await consumer.request(_BUSY_TIMEOUT_S)

    pace.waiting += 1
    try:
        answer = await first_answer(
            ask,
            again_after=lambda tries: math.inf if is_busy() else pace.ask_again_after * 1.5 ** (tries - 1),
            left=lambda: started + (_BUSY_TIMEOUT_S if is_busy() else pace.timeout) - loop.time(),
        )
        if answer is None:
            raise StoreUnavailableError(
                f"no answer to {api.subjects.call('CONSUMER.CREATE')}.{stream.name} within "
                f"{loop.time() - started:.1f} s ({filter})"
            )
        consumer, exists = answer
        if not exists:
            return None
        opened = consumer
        pace.note_answer(loop.time() - consumer.asked_at)
        return opened
    finally:
        pace.waiting -= 1
        try:
            for consumer in tried:
                if consumer is not opened:
                    await consumer.aclose()
        except BaseException:
            if opened is not None:
                await opened.aclose()
            raise
