"""A message that was sent and is not answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.msg import Msg

from ...errors import StoreUnavailableError

__all__ = ["REQUEST_TIMEOUT", "Pending"]

# A stream whose leader died needs about 5 s to elect another one (measured: 4.7 s); a caller who waits for
# an answer is told after that.
REQUEST_TIMEOUT = 6.0
# A server refuses a forbidden publish with an -ERR line and no answer. An answer that takes longer than
# this is a reason to look for such a line.
_SUSPICIOUS_AFTER = 0.1


class Pending:
    """A message of `size` bytes that was sent to `subject` in one `generation` of the connection."""

    def __init__(
        self,
        subject: str,
        size: int,
        generation: int,
        errors_before: int,
        check_refusal: Callable[[str, int], None],
    ) -> None:
        self.subject = subject
        self.size = size
        self.generation = generation
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._errors_before = errors_before
        self._check_refusal = check_refusal

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
