"""A watch whose events are checked: the picture they give, and what could not follow from earlier ones."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import natsdisc
from natsdisc import (
    Added,
    Discovery,
    DiscoveryError,
    Event,
    Instance,
    InstanceId,
    Query,
    StoreUnavailableError,
    endpoints,
    models,
    wire,
)

__all__ = ["DEADLINE", "QUERIES", "Follower", "digest", "opened_in"]

# What is promised takes 2 to 5 s; this machine may be doing something else, and tests promise no times.
DEADLINE = 30.0
QUERIES: tuple[Query, ...] = (
    endpoints(),
    models(),
    endpoints("ns1"),
    models("ns2"),
    endpoints("ns0", "comp"),
)


def digest(instances: Iterable[Instance]) -> str:
    """Equal for equal sets of instances, also in another process."""
    return hashlib.sha256(b"\n".join(sorted(map(wire.dumps, instances)))).hexdigest()


class Follower:
    """A watch, the picture its events give, and what was wrong with them."""

    def __init__(
        self,
        discovery: Discovery,
        query: Query,
        *,
        each: Callable[[], object] | None = None,
        pause: float = 0.0,
    ) -> None:
        self.discovery = discovery
        self.query = query
        self.live: dict[InstanceId, Instance] = {}
        self.removed: Counter[InstanceId] = Counter()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.outcome: str | DiscoveryError | None = None
        self.watch = discovery.list_and_watch(query)
        self._each, self._pause = each, pause
        self._task = asyncio.create_task(self._run())

    def report(self) -> dict[str, Any]:
        """What another process needs to know of it."""
        return {
            "digest": digest(self.live.values()),
            "events": self.counts.total(),
            "live": sorted(map(str, self.live)),
            "removed": sorted(map(str, self.removed)),
            "problems": self.problems,
            "outcome": None if self.outcome is None else repr(self.outcome),
        }

    async def aclose(self) -> None:
        await self.watch.aclose()
        await self._task

    async def _run(self) -> None:
        try:
            async for event in self.watch:
                self._take(event)
                if self._each is not None:
                    self._each()
                if self._pause:
                    await asyncio.sleep(self._pause)
        except DiscoveryError as error:
            self.outcome = error
        except Exception as error:
            self.problems.append(repr(error))
            raise
        else:
            self.outcome = "closed"

    def _take(self, event: Event) -> None:
        if isinstance(event, Added):
            instance = event.instance
            known = self.live.get(instance.id)
            if not self.query.matches(instance.id):
                self.problems.append(f"{self.query} was told of {instance.id}")
            if known == instance:
                self.problems.append(f"{self.query}: a second Added of {instance.id}")
            self.live[instance.id] = instance
            self.counts["added" if known is None else "changed"] += 1
        else:
            if event.id not in self.live:
                self.problems.append(f"{self.query}: Removed without Added: {event}")
            self.live.pop(event.id, None)
            self.removed[event.id] += 1
            self.counts["removed"] += 1


async def opened_in(opened: contextlib.AsyncExitStack, urls: Sequence[str], **options: Any) -> Discovery:
    """A Discovery that is closed with `opened`; a machine with much to do may need a second try."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return await opened.enter_async_context(natsdisc.connect(list(urls), **options))
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
