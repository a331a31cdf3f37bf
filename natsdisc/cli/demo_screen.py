"""The output of the demo: lines of what happens, and on a terminal the registry as a table below them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from natsdisc.model import Added, EndpointInstance, Event, Instance, InstanceId

from .demo_fleet import Worker
from .output import cell, on_terminal, say
from .path import path_of
from .render import detail

__all__ = ["Registry", "Screen"]

_STYLES = {
    "added": "green",
    "changed": "cyan",
    "removed": "red",
    "live": "green",
    "unregistered": "yellow",
    "expired": "red",
    "missing": "red",
    "killed": "red",
}
_FRAME = 0.1  # seconds; the clock in the title is a tenth of a second


class Registry:
    """Every instance that was ever seen, and whether it is `live` or why it is gone."""

    def __init__(self) -> None:
        self.states: dict[InstanceId, str] = {}
        self.instances: dict[InstanceId, Instance] = {}
        self.history: list[tuple[InstanceId, str]] = []
        self._changed = asyncio.Event()

    def take(self, event: Event) -> str:
        """Note an event; the word for it."""
        if isinstance(event, Added):
            id = event.instance.id
            word = "changed" if self.states.get(id) == "live" else "added"
            self.instances[id], self.states[id] = event.instance, "live"
            self.history.append((id, word))
        else:
            word = "removed"
            self.states[event.id] = str(event.reason)
            self.history.append((event.id, str(event.reason)))
        self._changed.set()
        return word

    async def until(self, states: dict[InstanceId, str]) -> None:
        """Wait until each of `states` is what was seen last."""
        while not states.items() <= self.states.items():
            self._changed.clear()
            await self._changed.wait()


class Screen:
    """Plain lines where nobody looks, and on a terminal the same lines in colour above a live table."""

    def __init__(self, registry: Registry, workers: list[Worker]) -> None:
        self._registry = registry
        self._workers = workers
        self._started = time.monotonic()
        self._console = Console(highlight=False)
        self._live: Live | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @contextmanager
    def open(self) -> Iterator[None]:
        """Draw the table, if there is anything to draw on, until the end."""
        if not on_terminal() or self._console.is_dumb_terminal:
            yield
            return
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._table)
        with self._live:
            try:
                yield
            finally:
                self._live.refresh()

    async def animate(self) -> None:
        """Keep the table up to date, for ever."""
        while True:
            if self._live is not None:
                self._live.refresh()
            await asyncio.sleep(_FRAME)

    def event(self, event: Event) -> None:
        """Show what was seen."""
        word = self._registry.take(event)
        if isinstance(event, Added):
            self.say(
                word, f"{_kind(event.instance):8}  {path_of(event.instance.id)}  {detail(event.instance)}"
            )
        else:
            last = self._registry.instances.get(event.id)
            self.say(word, f"{_kind(last):8}  {path_of(event.id)}  {event.reason}")

    def say(self, word: str, text: str) -> None:
        """Show one line."""
        line = Text(f"{self.elapsed:5.1f} s  ", "dim").append(f"{word:8}", _STYLES.get(word, "bold"))
        line.append_text(cell(f"  {text}", "not dim"))
        if self._live is not None:
            self._console.print(line, soft_wrap=True)
        else:
            say(line.plain)

    def _table(self) -> Table:
        table = Table(
            title=f"registry at {self.elapsed:.1f} s",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
            header_style="dim",
        )
        for name, width in (("Instance", 20), ("Serves", 21), ("Worker", 13), ("State", 12)):
            table.add_column(name, min_width=width, no_wrap=True)
        order = sorted(self._registry.instances.values(), key=lambda one: (one.instance_id, _kind(one)))
        for instance in order:
            id = instance.id
            state = self._registry.states[id]
            table.add_row(
                cell(path_of(id)),
                cell(_serves(instance)),
                self._worker(id),
                Text(state, _STYLES.get(state, "")),
                style="" if state == "live" else "dim",
            )
        return table

    def _worker(self, id: InstanceId) -> Text:
        name = f"{id.instance_id:x}"
        for worker in self._workers:
            if worker.name == name:
                return Text(f"{worker.pid} {worker.state}", _STYLES.get(worker.state, ""))
        return Text("?")


def _serves(instance: Instance) -> str:
    """Short enough for 80 columns."""
    if isinstance(instance, EndpointInstance):
        return str(instance.transport.address)
    return f"model {detail(instance)}"


def _kind(instance: Instance | None) -> str:
    return "endpoint" if isinstance(instance, EndpointInstance) else "model"
