"""A reader that a test opens after a fault: it lists, watches and views, and says what each of them shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass
from typing import Any

from natsdisc import DiscoveryError, Query, View, endpoints
from natsdisc.entry import BUCKETS

from .kit import Follower, Plain, opened_in

__all__ = ["Reader", "Sight", "cancelled"]

LIST_EVERY = 0.5
ENDING = 30.0  # seconds for a reader to close
CANCEL_EVERY = 5.0


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end. Raises AssertionError with its stack when it does not end."""
    deadline = time.monotonic() + ENDING
    while not task.done() and time.monotonic() < deadline:
        # More than once: `asyncio.wait_for` of Python 3.11 in nats-py loses a cancellation now and then.
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_EVERY)
    if not task.done():
        stack = io.StringIO()
        task.print_stack(file=stack)
        raise AssertionError(f"cancelled {ENDING:g} s ago, and still there: {task}\n{stack.getvalue()}")
    if not task.cancelled():
        task.result()


@dataclass(frozen=True, slots=True)
class Sight:
    """What a reader shows, as subjects; None as long as it has no answer."""

    kind: str
    subjects: Set[str] | None


class Reader:
    """A Discovery of its own at one node, with a list again and again, a watch and a view."""

    def __init__(self, url: str, query: Query | None = None, *, pause: float = 0.0) -> None:
        self._url, self._pause = url, max(pause, LIST_EVERY)
        self._query: Query = query or endpoints()
        self._listed: Set[str] | None = None
        self._follower: Follower | None = None
        self._view: View[Any] | None = None

    def sights(self) -> list[Sight]:
        """Return what its list, its view and its watch show now."""
        viewed = watched = None
        if self._view is not None and self._view.synced:
            viewed = {Plain.subject(instance.id) for instance in self._view.instances}
        # A watch says that it is synced at the same time as the view that shares its consumer.
        if self._follower is not None and viewed is not None:
            watched = set(map(Plain.subject, self._follower.live))
        return [Sight("list", self._listed), Sight("view", viewed), Sight("watch", watched)]

    def wrong(self, truth: Set[str]) -> list[str]:
        """Return what the reader shows and is not so, or does not show and is, a line for each subject."""
        bucket = f"$KV.{BUCKETS[self._query.kind]}."
        expected = {subject for subject in truth if subject.startswith(bucket)}
        wrong = []
        for sight in self.sights():
            if sight.subjects is None:
                wrong.append(f"{sight.kind} at {self._url}: no answer")
            else:
                wrong += [
                    f"{sight.kind} at {self._url}: {'missing' if subject in expected else 'ghost'} {subject}"
                    for subject in sorted(sight.subjects ^ expected)
                ]
        return wrong

    @property
    def problems(self) -> list[str]:
        """What its watch was told and could not be."""
        return self._follower.problems if self._follower is not None else []

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """Read until the end of this context; the reader connects by itself, as soon as it can."""
        task = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            await cancelled(task)

    async def _read(self) -> None:
        async with contextlib.AsyncExitStack() as opened:
            discovery = await opened_in(opened, [self._url])
            self._follower = Follower(discovery, self._query)
            opened.push_async_callback(self._follower.aclose)
            self._view = await opened.enter_async_context(discovery.view(self._query))
            while True:
                try:
                    listed = await discovery.list(self._query)
                    self._listed = {Plain.subject(instance.id) for instance in listed}
                except DiscoveryError:
                    self._listed = None
                await asyncio.sleep(self._pause)
