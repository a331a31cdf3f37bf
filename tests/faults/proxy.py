"""A TCP proxy on this machine that does to connections what networks do."""

from __future__ import annotations

import asyncio
import socket
from enum import Flag, auto
from types import TracebackType
from typing import Self

__all__ = ["Direction", "Proxy"]

_CHUNK = 65536


class Direction(Flag):
    """Where bytes go, seen from the client."""

    TO_SERVER = auto()
    TO_CLIENT = auto()
    BOTH = TO_SERVER | TO_CLIENT


class Proxy:
    """Forwards a port of its own to `port`: `async with Proxy(server.port) as proxy:`.

    Every fault lasts until `heal`; it acts at once on the connections there are and, unless it says
    otherwise, on those that come. Connections that went half open stay so for ever.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._socket.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf_to_new = False
        self._flowing = {direction: asyncio.Event() for direction in Direction}
        self._delay = dict.fromkeys(Direction, 0.0)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def connections(self) -> int:
        """How many clients are connected, half-open ones included."""
        return len(self._connections)

    async def heal(self) -> None:
        """End the fault; bytes that a stall held back go on."""
        self._deaf_to_new = False
        for direction in Direction:
            self._flowing[direction].set()
            self._delay[direction] = 0.0
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=self._socket)

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            # Bound and not listening, it keeps the port for us and refuses who comes.
            self._socket = socket.socket()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", self._port))
        for connection in self._connections:
            connection.abort()

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Hold back what goes in `direction`; the connections stay open."""
        for each in direction:
            self._flowing[each].clear()

    def half_open(self, *, new: bool) -> None:
        """Drop every byte of the connections there are, for ever; `new` ones work, or hear nothing too."""
        self._deaf_to_new = not new
        for connection in self._connections:
            connection.deaf = True

    def delay(self, seconds: float, direction: Direction = Direction.BOTH) -> None:
        """Let bytes that go in `direction` arrive later, up to twice as late when there are many."""
        for each in direction:
            self._delay[each] = seconds

    async def __aenter__(self) -> Self:
        await self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name=f"proxy {self._port}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, deaf=self._deaf_to_new)
        self._connections.add(connection)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            pass  # the server is down: the client sees its connection closed
        else:
            connection.writers.append(far_writer)
            ways = (
                self._pump(connection, reader, far_writer, Direction.TO_SERVER),
                self._pump(connection, far_reader, writer, Direction.TO_CLIENT),
            )
            pumps = [asyncio.create_task(way, name=f"proxy {self._port}") for way in ways]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._flowing[direction].wait()
                if self._delay[direction]:
                    await asyncio.sleep(self._delay[direction])
                if not connection.deaf:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass  # either end has closed: so does the other
        if connection.deaf and not connection.aborted:
            await asyncio.Event().wait()  # what is half open does not hear of the other end's close


class _Connection:
    """A client's connection and the one to the server behind it."""

    def __init__(self, writer: asyncio.StreamWriter, *, deaf: bool) -> None:
        self.writers = [writer]
        self.deaf = deaf
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True
        for writer in self.writers:
            writer.transport.abort()
