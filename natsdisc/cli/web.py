"""One document over HTTP, for programs that fetch it now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from .failure import Failure

__all__ = ["serving"]

_LONGEST_REQUEST = 16 * 1024  # bytes of its head
_PATIENCE = 10.0  # seconds for one request, from its first byte to the last of the answer
_MOST_AT_ONCE = 64


@asynccontextmanager
async def serving(host: str, port: int, document: Callable[[], str]) -> AsyncIterator[str]:
    """Answer GET / with the JSON that `document` returns; yield the URL. Raises Failure."""
    slots = asyncio.Semaphore(_MOST_AT_ONCE)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_answer(reader, writer, document, slots))
        running.add(task)
        task.add_done_callback(running.discard)

    try:
        server = await asyncio.start_server(accept, host, port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    try:
        bound = server.sockets[0].getsockname()[1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    document: Callable[[], str],
    slots: asyncio.Semaphore,
) -> None:
    try:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with slots, asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_reply(head.split(b"\r\n", 1)[0], document))
                await writer.drain()
                writer.write_eof()
                await reader.read(1)  # until the other side has it all
    finally:
        writer.transport.abort()


def _reply(line: bytes, document: Callable[[], str]) -> bytes:
    method, _, rest = line.partition(b" ")
    path = rest.split(b" ")[0].partition(b"?")[0]
    status, kind, body = "200 OK", "application/json", b""
    if method not in (b"GET", b"HEAD"):
        status, kind, body = "405 Method Not Allowed", "text/plain", b"GET this\n"
    elif path != b"/":
        status, kind, body = "404 Not Found", "text/plain", b"only / is here\n"
    else:
        body = document().encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if method == b"HEAD" else body)
