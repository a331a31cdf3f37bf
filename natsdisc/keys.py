"""Ids and queries as KV keys, and back.

A key is `namespace.component.endpoint.{id:x}[.suffix]`, one subject token a name. KV keys allow
`[-/_=.a-zA-Z0-9]` (ADR-8), so every other UTF-8 byte of a name, and `.` and `=` themselves, is written
`=XX` in upper-case hex. Exactly one key stands for an id: whatever else parses to nothing.

The key of an event channel or source is Dynamo's path with a token a segment, such as
`namespace.shop.component.cart.topic.kv-events.{id:x}`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

from .errors import InvalidNameError
from .model import (
    EndpointInstanceId,
    EventChannelInstanceId,
    EventSourceInstanceId,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    Query,
    Scope,
)

__all__ = ["MAX_KEY_BYTES", "Place", "key_of", "parse_key", "place_of", "prefix_of", "to_token"]

# The server's control line holds 4,096 bytes by default, and a delivery to a routed or leaf-node consumer
# carries the subject twice. This leaves 400 bytes for the verb, the bucket, the inbox and the sizes.
MAX_KEY_BYTES = 1848

# Namespace, component, endpoint, the text of the instance id, and suffix.
Place: TypeAlias = tuple[str, str, str, str, str | None]

_PLAIN = re.compile(r"[-_/a-zA-Z0-9]+\Z")
_OUTSIDE = re.compile(rb"[^-_/a-zA-Z0-9]")
_ESCAPED = re.compile(r"(?:[-_/a-zA-Z0-9]|=[0-9A-F]{2})+\Z")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")
_HEX_ID = re.compile(r"(?:0|[1-9a-f][0-9a-f]{0,15})\Z")


def key_of(id: InstanceId) -> str:
    """The key of `id`; raises InvalidNameError when it would be too long for a subject."""
    if isinstance(id, (EventChannelInstanceId, EventSourceInstanceId)):
        path = map(to_token, (*id.scope.path, "topic", id.topic))
        return _checked(f"{'.'.join(path)}.{id.instance_id:x}", id)
    tokens = [
        to_token(id.namespace),
        to_token(id.component),
        to_token(id.endpoint),
        f"{id.instance_id:x}",
    ]
    if isinstance(id, ModelCardInstanceId) and id.model_suffix is not None:
        tokens.append(to_token(id.model_suffix))
    return _checked(".".join(tokens), id)


def prefix_of(query: Query) -> str:
    """The leading tokens all keys of `query` share; empty when it asks for everything."""
    return _checked(".".join(map(to_token, query.names)), query)


def parse_key(kind: Kind, key: str) -> InstanceId | None:
    """The id a key stands for; None for a key that natsdisc would not have written."""
    place = place_of(kind, key)
    if place is None or not _HEX_ID.match(place[3]):
        return None
    namespace, component, endpoint, hex_id, suffix = place
    if kind is Kind.ENDPOINT:
        return EndpointInstanceId(namespace, component, endpoint, int(hex_id, 16))
    if kind is Kind.MODEL:
        return ModelCardInstanceId(namespace, component, endpoint, int(hex_id, 16), suffix)
    scope = Scope(tuple(filter(None, (namespace, component, endpoint))))
    make = EventChannelInstanceId if kind is Kind.EVENT_CHANNEL else EventSourceInstanceId
    return make(scope, suffix or "", int(hex_id, 16))


def place_of(kind: Kind, key: str) -> Place | None:
    """The parts of `key`; None if natsdisc would not have written its names. The id is not looked at."""
    if len(key) > MAX_KEY_BYTES:
        return None
    if kind is Kind.EVENT_CHANNEL or kind is Kind.EVENT_SOURCE:
        return _place_of_event(key)
    suffix = None
    if kind is Kind.MODEL and key.count(".") == 4:
        key, _, token = key.rpartition(".")
        suffix = _from_token(token)
        if suffix is None:
            return None
    names, _, hex_id = key.rpartition(".")
    known = _names(names)
    return None if known is None else (*known, hex_id, suffix)


def _place_of_event(key: str) -> Place | None:
    """Return the names of the scope (empty text where it has none), the id and the topic in `key`."""
    *path, word, topic_token, hex_id = key.split(".") if key.count(".") >= 4 else ("",) * 3
    if len(path) not in (2, 4, 6) or word != "topic":
        return None
    if tuple(path[::2]) != ("namespace", "component", "endpoint")[: len(path) // 2]:
        return None
    names = [_from_token(token) for token in path[1::2]]
    topic = _from_token(topic_token)
    if topic is None or None in names:
        return None
    namespace, component, endpoint = (*(name or "" for name in names), "", "")[:3]
    return namespace, component, endpoint, hex_id, topic


# Of many instances few differ in more than their id; and those that share their names then share the text.
@lru_cache(maxsize=4096)
def _names(tokens: str) -> tuple[str, str, str] | None:
    parts = tokens.split(".")
    if len(parts) != 3:
        return None
    namespace, component, endpoint = map(_from_token, parts)
    if namespace is None or component is None or endpoint is None:
        return None
    return namespace, component, endpoint


def to_token(name: str) -> str:
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
    return name if to_token(name) == token else None


def _checked(key: str, what: object) -> str:
    if len(key) > MAX_KEY_BYTES:
        raise InvalidNameError(
            f"the names in {str(what)[:80]!r}... need {len(key)} bytes as a key, {MAX_KEY_BYTES} fit a NATS "
            "subject; use shorter names (a byte outside [-_/a-zA-Z0-9] counts as three)"
        )
    return key
