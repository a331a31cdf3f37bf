"""A look at nats-py: whether its parser works in the way that `WatchParser` builds upon."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

try:
    from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser
except ImportError:  # a nats-py that `is_known` does not know
    AWAITING_CONTROL_LINE, Parser = None, object

__all__ = ["AWAITING_CONTROL_LINE", "Parser", "is_known"]


def is_known(client: Any, parser: Any) -> bool:
    """Return whether `client` and its `parser` have what `WatchParser` builds upon."""
    return (
        type(parser) is Parser
        and getattr(parser, "nc", None) is client
        and _parses_as_known()
        and isinstance(getattr(client, "_subs", None), dict)
        and isinstance(getattr(client, "_pings_outstanding", None), int)
        and isinstance(getattr(client, "stats", None), dict)
    )


@functools.cache
def _parses_as_known() -> bool:
    """Return whether nats-py's parser keeps its state as we know it, by a try."""
    probe = _Probe()
    try:
        parser = Parser(probe)
        for data in (b"MSG a.b 7 2\r\nh", b"i\r\nHMSG c 8 d 12 13\r\nNATS/1.0\r\n\r\n!\r\nMSG"):
            with contextlib.suppress(StopIteration), contextlib.closing(parser.parse(data)) as parsing:
                parsing.send(None)
            probe.seen.append((parser.state == AWAITING_CONTROL_LINE, parser.needed, bytes(parser.buf)))
        parser.reset()
    except Exception:
        return False
    return type(parser.buf) is bytearray and probe.seen == [
        (False, 2, b"h"),
        (7, b"a.b", b"", b"hi", None),
        (8, b"c", b"d", b"!", b"NATS/1.0\r\n\r\n"),
        (True, 13, b"MSG"),
    ]


class _Probe:
    """The part of a client that a parser calls."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def _process_msg(self, *parts: Any) -> None:
        self.seen.append(parts)
