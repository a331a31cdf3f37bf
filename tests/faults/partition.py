"""A cluster whose nodes reach each other over links that can be cut, while each still answers its clients."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from natsdisc.server import NatsServer
from tests.rig import Cluster

from .proxy import Proxy

__all__ = ["Network"]

# Nodes tell each other where the others are, and then go there: this leads nowhere, and nobody takes it.
_NOWHERE = ', advertise: "127.0.0.1:1"'


class Network(Cluster):
    """Three nodes, and a proxy for each way from one to another: `async with Network() as network:`."""

    def __init__(self, binary: Path | None = None, *, size: int = 3) -> None:
        self._links: dict[tuple[int, int], Proxy] = {}
        super().__init__(binary, size=size)

    def _ways(self, number: int, routes: list[int]) -> tuple[list[int], str]:
        others = [other for other in range(len(routes)) if other != number]
        for other in others:
            self._links[number, other] = Proxy(routes[other])
        # Its own port among them makes it count three nodes, and it knows itself.
        return [routes[number], *(self._links[number, other].port for other in others)], _NOWHERE

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as starting:
            for link in self._links.values():
                await starting.enter_async_context(link)
            await super().__aenter__()
            starting.push_async_exit(super().__aexit__)
            self._open = starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, traceback)

    def isolate(self, node: NatsServer, *, silently: bool = False) -> None:
        """Part a node from all others; `silently` by losing what they send, and not by closing."""
        for other in self.nodes:
            if other is not node:
                self.part(node, other, silently=silently)

    def part(self, one: NatsServer, other: NatsServer, *, silently: bool = False) -> None:
        """Part two nodes from each other; both reach any third."""
        for link in self._between(one, other):
            if silently:
                link.half_open(new=False)
            else:
                link.cut()

    async def heal(self) -> None:
        """Let every node reach every other again, over new connections."""
        for link in self._links.values():
            link.cut()
        for link in self._links.values():
            await link.heal()

    def _between(self, one: NatsServer, other: NatsServer) -> list[Proxy]:
        a, b = self.nodes.index(one), self.nodes.index(other)
        return [self._links[a, b], self._links[b, a]]
