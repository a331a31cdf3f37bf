"""Where answers arrive: one subscription for all requests of a Requester, and who waits for which."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from ... import log
from ...errors import DiscoveryError
from .pending import Pending
from .subscription import unsubscribed

__all__ = ["Mailbox"]

_log = log.logger(__name__)


class Mailbox:
    """The answers to requests over `nc`."""

    def __init__(self, nc: Client) -> None:
        self.counts: Counter[str] = Counter()
        self.inbox: str | None = None
        self.refused = False  # the server does not deliver: another subscription has to be tried
        self._nc = nc
        self._subscription: Any = None
        self._answered_in = -1  # the generation in which the last answer came
        self._waiting: dict[str, Pending] = {}

    @property
    def sizes(self) -> list[int]:
        """Bytes of each message that is not answered yet."""
        return [pending.size for pending in self._waiting.values()]

    async def open(self) -> str:
        """Return the subject below which answers arrive; raises what nats-py's `subscribe` does."""
        # nats-py hands answers over in a task of its own, which somebody may have cancelled.
        delivering = getattr(self._subscription, "_wait_for_msgs_task", None)
        if delivering is not None and delivering.done() and not self._nc.is_closed:
            self.counts["tasks_restarted"] += 1
            _log.error(
                "the task that delivers answers ended: listening for them anew",
                extra=log.fields("task_restarted", task="answers"),
            )
            self.refused = True
        if self.refused and self._subscription is not None:
            old, self._subscription, self.inbox, self.refused = self._subscription, None, None, False
            await unsubscribed(old)
        if self.inbox is None:
            # Set before the first await: a second caller's message then goes out behind this SUB.
            self.inbox = str(self._nc.new_inbox())
            try:
                self._subscription = await self._nc.subscribe(f"{self.inbox}.*", cb=self._receive)
            except BaseException:
                self.inbox = None
                raise
        return self.inbox

    def expect(self, pending: Pending) -> str:
        """Return the token on which the answer to `pending` comes."""
        # Somebody who can write to our inbox must not guess where the next answer is awaited.
        token = secrets.token_hex(8)
        pending.future.add_done_callback(lambda _: self._waiting.pop(token, None) and None)
        self._waiting[token] = pending
        return token

    def is_meant(self, text: str) -> bool:
        """Return whether an error line, in lower case, refuses the subscription."""
        return self.inbox is not None and f'subscription to "{self.inbox.lower()}' in text

    def note_error(self, text: str, generation: int) -> None:
        """Take an error line, in lower case, that came on the connection of that `generation`."""
        # A permission that is taken away ends a subscription that was there.
        if self.is_meant(text):
            self.refused = True
        # This does not say which one; it was ours if no answer ever came there.
        if "maximum subscriptions exceeded" in text and self._answered_in != generation:
            self.refused = True

    def fail(self, generation: int, error: DiscoveryError) -> None:
        """End with `error` what was sent on a connection before `generation`."""
        for pending in list(self._waiting.values()):
            if pending.generation < generation and not pending.future.done():
                pending.future.set_exception(error)
                # Not every sender still waits: one that was cancelled has nobody to tell.
                pending.future.exception()

    async def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            await unsubscribed(self._subscription)

    async def _receive(self, message: Msg) -> None:
        pending = self._waiting.get(message.subject.rpartition(".")[2])
        if pending is not None and pending.receive(message):
            self._answered_in = pending.generation
