"""One registration from its beginning to its end: a signal, the end of a program, or another owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, TypeAlias

from natsdisc import Discovery
from natsdisc.model import EndpointSpec, Instance

from .child import Child
from .connection import Connection
from .failure import Failure
from .health import Health
from .output import say
from .path import path_of
from .progress import progress
from .render import instance_json
from .run import taking_signals
from .waiting import tell_on_stderr

__all__ = ["HeldRegistration"]

# How often to look whether the process that started us is still there (seconds); its end is no event.
_LOOK_FOR_PARENT = 0.2


class _Reason(Enum):
    """Why a registration ends, apart from a signal's number."""

    LOST = auto()
    PROGRAM_ENDED = auto()


_End: TypeAlias = int | _Reason


class HeldRegistration:
    """Registers `spec`, and runs `command` meanwhile, if there is one."""

    def __init__(
        self,
        spec: EndpointSpec,
        *,
        drain: float,
        command: Sequence[str] | None,
        health: Health | None,
        ready: Health | None,
        ready_timeout: float,
        with_parent: bool,
        pass_credentials: bool,
        as_json: bool,
    ) -> None:
        self._spec = spec
        self._drain = drain
        self._command = command
        self._health = health
        self._ready = ready
        self._ready_timeout = ready_timeout  # seconds
        self._as_json = as_json
        self._pass_credentials = pass_credentials
        self._parent = os.getppid() if with_parent else None
        self._ends: asyncio.Queue[_End] = asyncio.Queue()
        self._leaving = False

    async def hold(self, connection: Connection, **options: Any) -> int:
        """Hold it until something ends it; the exit code. The registration is gone when this returns.

        Raises Failure, and what `connect` and `Discovery.register` raise; the program has ended then too.
        """
        lost = self._note_lost
        async with connection.open(tell=self._tell, on_lost=lost, **options) as discovery:
            with taking_signals(self._ends.put_nowait):
                if self._command is None:
                    await self._until_the_end(discovery, None)
                    return 0
                child = await Child.start(self._command, pass_credentials=self._pass_credentials)
                return await self._with_program(discovery, child)

    def _tell(self, text: str) -> None:
        if not self._leaving:  # then the connection is closed by us
            tell_on_stderr(text)

    def _note_lost(self, _: object) -> None:
        self._ends.put_nowait(_Reason.LOST)

    async def _with_program(self, discovery: Discovery, child: Child) -> int:
        number: int = signal.SIGTERM
        try:
            number = await self._until_the_end(discovery, child)
        finally:
            await self._stop(child, number)
        return await child.ended()

    async def _until_the_end(self, discovery: Discovery, child: Child | None) -> int:
        """Register, and unregister at the end; the signal that was the end. Raises Failure."""
        watching = [asyncio.create_task(work) for work in self._watching(child)]
        try:
            end = await self._registered(discovery, child)
            if end is _Reason.LOST:
                raise Failure(f"{self._path(discovery)} was taken by another owner")
            await self._leave(discovery, drained=isinstance(end, int))
            return end if isinstance(end, int) else signal.SIGTERM
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def _watching(self, child: Child | None) -> list[Any]:
        works = []
        if child is not None:
            works.append(self._watch_program(child))
        if self._parent is not None:
            works.append(self._watch_parent(self._parent))
        return works

    async def _watch_program(self, child: Child) -> None:
        await child.ended()
        self._ends.put_nowait(_Reason.PROGRAM_ENDED)

    async def _watch_parent(self, parent: int) -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_LOOK_FOR_PARENT)
        self._ends.put_nowait(signal.SIGTERM)

    async def _registered(self, discovery: Discovery, child: Child | None) -> _End:
        """Register, unless the end comes first; why it ends."""
        ending = asyncio.create_task(self._ends.get())
        registering = asyncio.create_task(self._enter(discovery))
        try:
            await asyncio.wait((ending, registering), return_when=asyncio.FIRST_COMPLETED)
            if registering.done():
                # A program's output is its own.
                say(self._described(registering.result()), err=child is not None)
            return await ending
        finally:
            for task in (ending, registering):
                task.cancel()
            await asyncio.gather(ending, registering, return_exceptions=True)

    async def _enter(self, discovery: Discovery) -> Instance:
        """Register once the service is ready. Raises Failure, and what `Discovery.register` raises."""
        path = self._path(discovery)
        if self._ready is not None:
            async with progress(f"waiting until {path} is ready"):
                await self._ready.until_ready(self._ready_timeout)
        options: dict[str, Any] = {}
        if self._health is not None:
            times = self._health.times
            options = {
                "health": self._health.passes,
                "health_interval": times.interval,
                "health_failures": times.failures,
                "health_successes": times.successes,
            }
        async with progress(f"registering {path}"):
            return await discovery.register(self._spec, **options)

    def _described(self, instance: Instance) -> str:
        return instance_json(instance) if self._as_json else path_of(instance.id)

    async def _leave(self, discovery: Discovery, *, drained: bool) -> None:
        """Unregister; the wait for those who still use it ends with the next thing that happens."""
        self._leaving = True
        if drained and self._drain > 0:
            if sys.stdin.isatty():
                say(f"natsdisc: draining for {self._drain:g} s; Ctrl-C again ends that", err=True)
            closing = asyncio.create_task(discovery.close(drain=self._drain))
            hurrying = asyncio.create_task(self._ends.get())
            try:
                await asyncio.wait((closing, hurrying), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (closing, hurrying):
                    task.cancel()
                await asyncio.gather(closing, hurrying, return_exceptions=True)
        await discovery.close()

    async def _stop(self, child: Child, number: int) -> None:
        """Pass signals on until the program has ended."""
        watching = asyncio.create_task(self._watch_program(child))
        child.pass_on(number)
        while child.running:
            end = await self._ends.get()
            if isinstance(end, int):
                child.pass_on(end)
        await watching

    def _path(self, discovery: Discovery) -> str:
        return path_of(self._spec.with_instance_id(discovery.instance_id).id)
