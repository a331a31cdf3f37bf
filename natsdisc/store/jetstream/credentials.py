"""Reading a credentials file, which somebody else may be writing at that moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

__all__ = ["line_after"]


def line_after(credentials: Any, mark: bytes) -> bytearray:
    """Return the line behind the one that holds `mark`, of a file or of nats-py's RawCredentials.

    Raises OSError, and nats-py's Error for a file without such a line. nats-py alone reads there for ever.
    """
    path = credentials if isinstance(credentials, (str, Path)) else None
    text = Path(path).read_bytes() if path is not None else str(credentials).encode()
    lines = iter(text.splitlines())
    for line in lines:
        if mark in line:
            found = next(lines, b"").strip()
            if found:
                return bytearray(found)
    raise NatsError(f"nats: the credentials {path or 'given'} have no line after {mark.decode()!r}")
