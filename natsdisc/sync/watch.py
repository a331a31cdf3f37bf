"""A watch as a plain iterator."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from .. import watch as asynchronous
from ..errors import ClosedError
from ..model import Event
from .session import Session

__all__ = ["Watch"]


class Watch(Iterator[Event]):
    """The events of a query: first what is there, as Added, and then every change until it is closed.

    Guarantees are those of `natsdisc.Discovery.list_and_watch`. Another thread may call `close`, which ends
    the iteration. A watch belongs to the process that made it: in a forked child it raises ClosedError.

        with discovery.list_and_watch(endpoints("shop")) as events:
            for event in events:
                print(event)
    """

    def __init__(self, session: Session, watch: asynchronous.Watch, what: str) -> None:
        self._session = session
        self._watch = watch
        self._what = what

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Return the next event, waiting without end; Ctrl-C ends the wait in the main thread."""
        event = self._next(None)
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None when the watch was closed; no event is lost by a time-out.

        Raises TimeoutError after `timeout` seconds, and what broke the watch for good.

        Example: `event = watch.next(timeout=1.0)`
        """
        return self._next(timeout)

    def synced(self, timeout: float | None = None) -> None:
        """Wait until every instance that was there is reported.

        Raises TimeoutError after `timeout` seconds, ClosedError, and what broke the watch for good.
        """
        self._check()
        self._session.thread.run(self._watch.synced, f"the first picture of {self._what}", timeout)

    def close(self) -> None:
        """End the watch and free its consumer on the server; nothing happens in a forked child."""
        if self._session.is_here and not self._session.closed:
            self._session.thread.run(self._watch.aclose, f"closing {self._what}")

    def _next(self, timeout: float | None) -> Event | None:
        self._check()
        if self._session.closed:
            return None

        async def following() -> Event | None:
            try:
                return await self._watch.__anext__()
            except StopAsyncIteration:
                return None

        return self._session.thread.run(following, f"waiting for an event of {self._what}", timeout)

    def _check(self) -> None:
        if not self._session.is_here:
            raise ClosedError(
                f"{self._what} belongs to process {self._session.pid}, which forked this one; "
                "call list_and_watch again here"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._what}>"
