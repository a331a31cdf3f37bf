"""A message that was sent and is not answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from nats.aio.msg import Msg

from ...errors import StoreUnavailableError

__all__ = ["REQUEST_TIMEOUT", "Judge", "Pending"]

# A stream whose leader died needs about 5 s to elect another one (measured: 4.7 s); a caller who waits for
# an answer is told after that.
REQUEST_TIMEOUT = 6.0
# A server refuses a forbidden publish with an -ERR line and no answer. An answer that takes longer than
# this is a reason to look for such a line.
_SUSPICIOUS_AFTER = 0.1
# An answer that may be of another sender than the one that was asked waits this long for a better one.
_BETTER_WITHIN_S = 0.3

# Tells whether an answer is the one that was asked for; None when that cannot be told from it.
Judge: TypeAlias = Callable[[Msg], bool | None]


class Pending:
    """A message of `size` bytes that was sent to `subject` in one `generation` of the connection.

    Where more than one may answer, `judge` tells which answer counts.
    """

    def __init__(
        self,
        subject: str,
        size: int,
        generation: int,
        errors_before: int,
        check_refusal: Callable[[str, int], None],
        judge: Judge | None = None,
    ) -> None:
        self.subject = subject
        self.size = size
        self.generation = generation
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._errors_before = errors_before
        self._check_refusal = check_refusal
        self._judge = judge

    def receive(self, message: Msg) -> bool:
        """Take an answer; return whether it counts, now or unless a better one comes soon."""
        if self.future.done():
            return False
        is_final = True if self._judge is None else self._judge(message)
        if is_final:
            self.future.set_result(message)
        elif is_final is None:
            self.future.get_loop().call_later(_BETTER_WITHIN_S, self._settle, message)
        return is_final is not False

    def _settle(self, message: Msg) -> None:
        if not self.future.done():
            self.future.set_result(message)

    async def answer(self, timeout: float = REQUEST_TIMEOUT) -> Msg:
        """Return the answer, which has `timeout` seconds to come.

        Raises StoreUnavailableError, PermissionDeniedError, ClosedError.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        patience = _SUSPICIOUS_AFTER
        try:
            while not self.future.done():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise StoreUnavailableError(
                        f"no answer to {self.subject} within {timeout:g} s: is there a server with "
                        "JetStream, and does the stream have a leader?"
                    )
                await asyncio.wait((self.future,), timeout=min(patience, left))
                patience *= 2
                if not self.future.done():
                    self._check_refusal(self.subject, self._errors_before)
            return self.future.result()
        finally:
            self.future.cancel()
