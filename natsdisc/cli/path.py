"""Places as text: `shop/cart/checkout/1f`, written one way everywhere and read back the same.

Names may hold any character. Those that would make a path ambiguous, or that a terminal or a shell pattern
would take for something else, are written as `%XX` of their UTF-8 bytes, as in URLs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from natsdisc.model import EndpointInstanceId, InstanceId, ModelCardInstanceId
from natsdisc.safe import safe

__all__ = ["escaped", "hex_id", "joined", "parse_id", "parts_of", "path_of"]

# `/` and `%` belong to paths; `*`, `?` and `[` belong to the patterns of `prune`.
_OURS = frozenset("/%*?[")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})?")
_HEX_ID = re.compile(r"(?:0[xX])?0*([0-9a-fA-F]{1,16})\Z")


def path_of(id: InstanceId) -> str:
    """Return the place of an instance: names and the id in hexadecimal, and a model card's suffix.

    >>> from natsdisc import EndpointInstanceId
    >>> path_of(EndpointInstanceId("shop", "a/b", "checkout", 31))
    'shop/a%2Fb/checkout/1f'
    """
    if not isinstance(id, (EndpointInstanceId, ModelCardInstanceId)):
        return str(id)  # Dynamo's path, which has escapes of its own
    path = f"{joined((id.namespace, id.component, id.endpoint))}/{hex_id(id.instance_id)}"
    suffix = id.model_suffix if isinstance(id, ModelCardInstanceId) else None
    return f"{path}/{escaped(suffix)}" if suffix else path


def hex_id(instance_id: int) -> str:
    """Return an instance id as paths hold it."""
    return f"{instance_id:x}"


def joined(names: Sequence[str]) -> str:
    """Return the path of `names`, outermost first."""
    path = "/".join(map(escaped, names))
    # A leading hyphen would make an option of it.
    return f"%2D{path[1:]}" if path.startswith("-") else path


def escaped(name: str) -> str:
    """Return `name` as one part of a path."""
    if name.isalnum():
        return name
    return "".join(_percent(c) if c in _OURS or c.isspace() or safe(c) != c else c for c in name)


def parts_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of a place that was given as one path, as names, or as a mixture of both.

    Raises click.UsageError for a `%` that begins no escape, and for escapes that are no UTF-8.
    """
    parts: list[str] = []
    for word in words:
        # A completed path ends with a slash; so it may be left there.
        word = word.removesuffix("/") or word
        parts += map(_unescaped, word.split("/"))
    return tuple(parts)


def parse_id(text: str) -> int:
    """Return the instance id that `text` means, in hexadecimal with or without 0x.

    Raises click.UsageError.
    """
    match = _HEX_ID.match(text)
    if match is None:
        raise click.UsageError(
            f"{safe(text[:80])!r} is not an instance id: it has up to 16 hexadecimal digits."
        )
    return int(match[1], 16)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _unescaped(part: str) -> str:
    if "%" not in part:
        return part

    def decode(match: re.Match[str]) -> str:
        if match[1] is None:
            raise click.UsageError(f"In {safe(part)!r} a % begins no escape: write %25 for a percent sign.")
        return chr(0xDC00 + int(match[1], 16))  # a byte, told apart from the characters around it

    text = _ESCAPE.sub(decode, part)
    try:
        # Bytes that follow each other are decoded together; other characters stand for themselves.
        return re.sub("[\udc00-\udcff]+", lambda run: _decoded(run[0]), text)
    except UnicodeDecodeError:
        raise click.UsageError(f"The escapes in {safe(part)!r} are not UTF-8.") from None


def _decoded(run: str) -> str:
    return bytes(ord(character) - 0xDC00 for character in run).decode()
