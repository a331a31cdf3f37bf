"""The floor: the bytes of a consumer's snapshot, read from a socket and counted."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import socket
import time
from typing import ClassVar
from urllib.parse import urlsplit

from .. import data
from .base import Peer
from .plain_kv import bucket_of

_TIMEOUT = 60.0
_CHUNK = 1 << 20


class Floor(Peer):
    """SUB, CONSUMER.CREATE with `last_per_subject`, and recv. Nothing is parsed but in `prepare`."""

    expected: ClassVar[dict[str, int]] = {}

    def __init__(self, address: str, space: str) -> None:
        super().__init__(address, space)
        self.socket: socket.socket | None = None
        # Each has three digits, or the bytes were not the same.
        self._subscriptions = itertools.count(100)
        self._buffer = memoryview(bytearray(_CHUNK))

    async def connect(self) -> None:
        url = urlsplit(self.address)
        self.socket = socket.create_connection((url.hostname, url.port or 4222), _TIMEOUT)
        self.socket.recv(65536)
        self.socket.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n'
        )
        received = b""
        while b"PONG\r\n" not in received:
            received += self.socket.recv(65536)

    async def close(self) -> None:
        assert self.socket is not None
        self.socket.close()

    async def prepare(self, count: int) -> None:
        """Find out how many bytes there are: the ends of the `count`th message's payload."""
        assert self.socket is not None
        self._ask()
        received, seen, at = bytearray(), 0, 0
        line = re.compile(rb"H?MSG [^\r\n]*?(\d+)\r\n")
        while seen < count:
            match = line.match(received, at)
            end = match.end() + int(match[1]) + 2 if match else 0
            if match is None or len(received) < end:
                received += self.socket.recv(_CHUNK)
                continue
            seen += 1
            at = end
        self.expected[self.space] = at
        await self.close()
        await self.connect()

    async def list(self) -> int:
        await self._read()
        return 0

    async def sync(self, count: int) -> float:
        await self._read()
        return time.perf_counter()

    async def _read(self) -> None:
        assert self.socket is not None
        self._ask()
        missing = self.expected[self.space]
        receive, buffer = self.socket.recv_into, self._buffer
        while missing > 0:
            missing -= receive(buffer)

    def _ask(self) -> None:
        assert self.socket is not None
        stream, name, inbox = f"KV_{bucket_of(self.space)}", secrets.token_hex(11), secrets.token_hex(11)
        subject = f"$KV.{bucket_of(self.space)}.{data.NAMESPACE}.{data.COMPONENT}.>"
        config = {
            "name": name,
            "deliver_subject": f"_INBOX.{inbox}",
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": subject,
            "inactive_threshold": 5_000_000_000,
            "mem_storage": True,
        }
        body = json.dumps({"stream_name": stream, "config": config}).encode()
        self.socket.sendall(
            f"SUB _INBOX.{inbox} {next(self._subscriptions)}\r\n"
            f"PUB $JS.API.CONSUMER.CREATE.{stream}.{name}.{subject} _ANSWER.{inbox} {len(body)}\r\n".encode()
            + body
            + b"\r\n"
        )
