"""One run of the benchmarks: the servers, who takes part, and what was measured so far."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from . import children, peers, servers
from .children import THIS_PYTHON, MeasurementError

SMALL = 10


@dataclass(slots=True)
class Samples:
    """One measure: a number a run for each peer, in the order in which they took turns."""

    name: str
    unit: str
    higher_is_better: bool = False
    base: str = "ours"
    by_peer: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for."""

    runs: int = 5
    quick: bool = False
    peers: frozenset[str] = frozenset(peers.ALL)
    pythons: dict[str, str] = field(default_factory=dict)
    sizes: tuple[int, ...] = (10, 1_000, 10_000, 100_000)


class Bench:
    """Starts a server when a part first needs it, and ends all of them with the block."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.measures: dict[str, Samples] = {}
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.load_at_start = os.getloadavg()[0]
        self._running: dict[str, servers.Running] = {}
        self._stack = contextlib.ExitStack()
        self._seeded: set[str] = set()
        self._spaces = itertools.count()
        self._checked: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def taking_part(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that were asked for and can be measured; says once why another cannot."""
        return [name for name in names if name in self.settings.peers and self._is_here(name)]

    def _is_here(self, name: str) -> bool:
        if name not in self._checked:
            self._checked.add(name)
            entry = peers.ALL[name]
            if entry.needs and not children.can_import(self.python(name), entry.needs):
                self.skip(name, f"the package {entry.needs} is not installed for {self.python(name)}")
            else:
                with contextlib.suppress(servers.NotInstalledError):
                    self.server(entry.server)
        return name not in self.skipped

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        self.say(f"skipped {peers.ALL[name].title}: {reason}")

    def server(self, name: str) -> servers.Running:
        """The server of that name; raises NotInstalledError."""
        if name not in self._running:
            try:
                self._running[name] = self._stack.enter_context(servers.STARTERS[name]())
            except servers.NotInstalledError as error:
                for peer in peers.ALL.values():
                    if peer.server == name and peer.name not in self.skipped:
                        self.skip(peer.name, str(error))
                raise
            self.versions[name] = self._running[name].version
        return self._running[name]

    def python(self, peer: str) -> str:
        return self.settings.pythons.get(peer, THIS_PYTHON)

    def fresh_space(self) -> str:
        """A registry that nobody has used."""
        return f"b{next(self._spaces)}"

    def params(self, peer: str, space: str, **more: Any) -> dict[str, Any]:
        return {"peer": peer, "address": self.server(peers.ALL[peer].server).address, "space": space, **more}

    def seeded(self, peer: str, count: int) -> str:
        """A registry with `count` instances, on the server of `peer`."""
        filler = peers.ALL[peer].filler
        space = f"{filler}{count}"
        if space not in self._seeded:
            self.say(f"  fills {peers.ALL[filler].title} with {count:,} instances")
            children.run(self.python(filler), "seed", **self.params(filler, space, count=count))
            self._seeded.add(space)
        return space

    def measure(self, name: str, unit: str, *, higher_is_better: bool = False, base: str = "ours") -> Samples:
        return self.measures.setdefault(name, Samples(name, unit, higher_is_better, base))

    def add(self, samples: Samples, peer: str, value: float) -> None:
        samples.by_peer.setdefault(peer, []).append(value)

    def rounds(self, names: Sequence[str], runs: int | None = None) -> Iterable[str]:
        """Each peer in turn, as often as there are runs: a machine that drifts drifts for all of them.

        Every other round goes backwards.
        """
        for number in range(runs or self.settings.runs):
            yield from names if number % 2 == 0 else reversed(names)

    def run(self, peer: str, action: str, space: str, **more: Any) -> Any:
        """The result of one child, or None if it failed: then the peer is left out of this measure."""
        try:
            return children.run(self.python(peer), action, **self.params(peer, space, **more))
        except MeasurementError as error:
            self.say(f"  failed: {error}")
            return None

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
