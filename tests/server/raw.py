"""A NATS connection that sends any bytes as any user, as an attacker would."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Self

PATIENCE = 30.0


def headers(*lines: str) -> bytes:
    """Return a header block."""
    return b"NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


class Raw:
    """One connection; `refused` holds what the server refused."""

    def __init__(self, port: int, user: str | None = None, password: str | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._stream = self._socket.makefile("rb")
        self._stream.readline()
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1}
        login = {"user": user, "pass": password} if user is not None else {}
        self.send(b"CONNECT " + json.dumps({**options, **login}).encode() + b"\r\n")
        self.refused: list[str] = []
        self.received: list[tuple[str, bytes]] = []
        self._subscriptions = 0
        self.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def publish(
        self, subject: str | bytes, payload: bytes = b"", block: bytes = b"", *, reply: str = ""
    ) -> None:
        name = subject.encode() if isinstance(subject, str) else subject
        words = [name, *([reply.encode()] if reply else [])]
        if block:
            words += [b"%d" % len(block), b"%d" % (len(block) + len(payload))]
            self.send(b"HPUB " + b" ".join(words) + b"\r\n" + block + payload + b"\r\n")
        else:
            self.send(b"PUB " + b" ".join([*words, b"%d" % len(payload)]) + b"\r\n" + payload + b"\r\n")

    def subscribe(self, subject: str) -> None:
        self._subscriptions += 1
        self.send(f"SUB {subject} {self._subscriptions}\r\n".encode())

    def sync(self) -> None:
        """Everything sent so far has reached the server, and what it answered at once is here."""
        self.send(b"PING\r\n")
        while self._frame() != "PONG":
            pass

    def request(self, subject: str, payload: bytes = b"", *, inbox: str = "_INBOX.raw") -> bytes | None:
        """Return the first answer, below the subject `inbox`; None when the server refused the request."""
        refused, received = len(self.refused), len(self.received)
        inbox = f"{inbox}.{self._subscriptions}"
        self.subscribe(inbox)
        self.publish(subject, payload, reply=inbox)
        while len(self.received) == received:
            self._frame()
            if len(self.refused) > refused:
                return None
        return self.received[-1][1]

    def _frame(self) -> str:
        line = self._stream.readline()
        assert line, "the server has hung up"
        words = line.split()
        if words[0] in (b"MSG", b"HMSG"):
            data = self._stream.read(int(words[-1]))
            self._stream.readline()
            skip = int(words[-2]) if words[0] == b"HMSG" else 0
            self.received.append((words[1].decode(errors="replace"), data[skip:]))
        elif words[0] == b"PING":
            self.send(b"PONG\r\n")
        elif words[0] == b"-ERR":
            self.refused.append(line.decode(errors="replace"))
        return words[0].decode()
