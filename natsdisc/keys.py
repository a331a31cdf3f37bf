"""Ids and queries as KV keys, and back.

A key is `namespace.component.endpoint.{id:x}[.suffix]`, one subject token a name. KV keys allow
`[-/_=.a-zA-Z0-9]` (ADR-8), so every other UTF-8 byte of a name, and `.` and `=` themselves, is written
`=XX` in upper-case hex. Exactly one key stands for an id: whatever else parses to nothing.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from .errors import InvalidNameError
from .model import EndpointInstanceId, InstanceId, Kind, ModelCardInstanceId, Query

__all__ = ["MAX_KEY_BYTES", "Place", "key_of", "parse_key", "parse_place", "prefix_of"]

# The server's control line holds 4,096 bytes by default, and a delivery to a routed or leaf-node consumer
# carries the subject twice. This leaves 400 bytes for the verb, the bucket, the inbox and the sizes.
MAX_KEY_BYTES = 1848

# Namespace, component, endpoint, instance id and suffix.
Place: TypeAlias = tuple[str, str, str, int, str | None]

_PLAIN = re.compile(r"[-_/a-zA-Z0-9]+\Z")
_OUTSIDE = re.compile(rb"[^-_/a-zA-Z0-9]")
_ESCAPED = re.compile(r"(?:[-_/a-zA-Z0-9]|=[0-9A-F]{2})+\Z")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")
_HEX_ID = re.compile(r"(?:0|[1-9a-f][0-9a-f]{0,15})\Z")
_PLAIN_KEY = re.compile(
    r"([-_/a-zA-Z0-9]+)\.([-_/a-zA-Z0-9]+)\.([-_/a-zA-Z0-9]+)"
    r"\.(0|[1-9a-f][0-9a-f]{0,15})(?:\.([-_/a-zA-Z0-9]+))?\Z"
)


def key_of(id: InstanceId) -> str:
    """The key of `id`; raises InvalidNameError when it would be too long for a subject."""
    tokens = [
        _to_token(id.namespace),
        _to_token(id.component),
        _to_token(id.endpoint),
        f"{id.instance_id:x}",
    ]
    if isinstance(id, ModelCardInstanceId) and id.model_suffix is not None:
        tokens.append(_to_token(id.model_suffix))
    return _checked(".".join(tokens), id)


def prefix_of(query: Query) -> str:
    """The leading tokens all keys of `query` share; empty when it asks for everything."""
    return _checked(".".join(map(_to_token, query.names)), query)


def parse_key(kind: Kind, key: str) -> InstanceId | None:
    """The id a key stands for; None for a key that natsdisc would not have written."""
    place = parse_place(kind, key)
    if place is None:
        return None
    return EndpointInstanceId(*place[:4]) if kind is Kind.ENDPOINT else ModelCardInstanceId(*place)


def parse_place(kind: Kind, key: str) -> Place | None:
    """`parse_key` as a plain tuple: namespace, component, endpoint, instance id and suffix."""
    if len(key) > MAX_KEY_BYTES:
        return None
    plain = _PLAIN_KEY.match(key)
    if plain is not None:  # most keys have nothing to unescape
        namespace, component, endpoint, hex_id, suffix = plain.groups()
        if suffix is not None and kind is Kind.ENDPOINT:
            return None
        return namespace, component, endpoint, int(hex_id, 16), suffix
    tokens = key.split(".")
    if len(tokens) not in ((4,) if kind is Kind.ENDPOINT else (4, 5)) or not _HEX_ID.match(tokens[3]):
        return None
    names = [_from_token(token) for token in (*tokens[:3], *tokens[4:])]
    if None in names:
        return None
    namespace, component, endpoint, *rest = [name for name in names if name is not None]
    return namespace, component, endpoint, int(tokens[3], 16), rest[0] if rest else None


def _to_token(name: str) -> str:
    if _PLAIN.match(name):
        return name
    return _OUTSIDE.sub(lambda byte: b"=%02X" % ord(byte[0]), name.encode()).decode("ascii")


def _from_token(token: str) -> str | None:
    if _PLAIN.match(token):
        return token
    if not _ESCAPED.match(token):
        return None
    try:
        name = _ESCAPE.sub(lambda code: bytes([int(code[1], 16)]), token.encode("ascii")).decode()
    except UnicodeDecodeError:
        return None
    # `=41` would read as `A`, which is written `A`: one name, one token.
    return name if _to_token(name) == token else None


def _checked(key: str, what: object) -> str:
    if len(key) > MAX_KEY_BYTES:
        raise InvalidNameError(
            f"the names in {str(what)[:80]!r}... need {len(key)} bytes as a key, {MAX_KEY_BYTES} fit a NATS "
            "subject; use shorter names (a byte outside [-_/a-zA-Z0-9] counts as three)"
        )
    return key
