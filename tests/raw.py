"""A NATS client that sends any bytes, for messages that no library would write."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from types import TracebackType
from typing import Any, Self

PATIENCE = 10.0


class Raw:
    """A connection to the server at `url`: `async with Raw(server.url) as raw:`."""

    def __init__(self, url: str, **login: str) -> None:
        self._address = url.removeprefix("nats://").split(":")
        self._login = login
        self._sids = itertools.count(1)
        self.inbox = f"_INBOX.raw-{secrets.token_hex(6)}"
        self.errors: list[str] = []
        self.messages: list[tuple[bytes, bytes, bytes, bytes]] = []
        """Subject, reply, headers and payload of all that came to our subscriptions."""
        self._pongs = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 22)
        await self._reader.readline()
        options: dict[str, Any] = {"verbose": False, "headers": True, "no_responders": True, **self._login}
        self.send(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        self._listening = asyncio.create_task(self._listen())
        self.subscribe(f"{self.inbox}.*")
        await self.sync()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.wait((self._listening,))
        self._writer.close()
        await self._writer.wait_closed()

    def send(self, data: bytes) -> None:
        """Send protocol bytes as they are."""
        self._writer.write(data)

    def subscribe(self, subject: str) -> int:
        """Subscribe, and return the number that `unsubscribe` takes."""
        sid = next(self._sids)
        self.send(b"SUB %s %d\r\n" % (subject.encode(), sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        self.send(b"UNSUB %d\r\n" % sid)

    def publish(self, subject: bytes, payload: bytes = b"", headers: bytes = b"", reply: bytes = b"") -> None:
        words = [b"HPUB" if headers else b"PUB", subject, *([reply] if reply else [])]
        words += [b"%d" % len(headers)] if headers else []
        self.send(
            b" ".join([*words, b"%d" % (len(headers) + len(payload))]) + b"\r\n" + headers + payload + b"\r\n"
        )

    async def sync(self) -> None:
        """Wait until the server has read what was sent, and we what it sent before."""
        wanted = self._pongs + 1
        self.send(b"PING\r\n")
        await self._writer.drain()
        async with asyncio.timeout(PATIENCE):
            while self._pongs < wanted:
                if self._listening.done():
                    raise ConnectionError(f"the server hung up: {self.errors}")
                await asyncio.sleep(0.001)

    async def request(self, subject: bytes, payload: bytes = b"", headers: bytes = b"") -> Any:
        """The JSON answer to a message."""
        reply = f"{self.inbox}.{secrets.token_hex(6)}".encode()
        self.publish(subject, payload, headers, reply)
        async with asyncio.timeout(PATIENCE):
            while True:
                for answered, _, answer_headers, answer in self.messages:
                    if answered == reply:
                        return json.loads(answer) if answer else {"error": answer_headers.decode()}
                if self._listening.done():
                    raise ConnectionError(f"the server hung up: {self.errors}")
                await asyncio.sleep(0.001)

    async def _listen(self) -> None:
        while line := await self._reader.readline():
            words = line.rstrip(b"\r\n").split(b" ")
            if words[0] == b"MSG":
                data = await self._reader.readexactly(int(words[-1]) + 2)
                self.messages.append((words[1], words[3] if len(words) == 5 else b"", b"", data[:-2]))
            elif words[0] == b"HMSG":
                size = int(words[-2])
                data = await self._reader.readexactly(int(words[-1]) + 2)
                self.messages.append(
                    (words[1], words[3] if len(words) == 6 else b"", data[:size], data[size:-2])
                )
            elif words[0] == b"PING":
                self.send(b"PONG\r\n")
            elif words[0] == b"PONG":
                self._pongs += 1
            elif words[0] == b"-ERR":
                self.errors.append(line.decode())
