"""Addresses that a transport may have, by its kind. They are checked when they are made, never when read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from .errors import InvalidValueError

__all__ = ["check_address"]

_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[^\]\s]+)?\]|[^\s\[\]:/]+):(\d{1,5})(?:/\S*)?\Z")
_LARGEST_PORT = 65_535


def check_address(kind: str, address: Any) -> None:
    """Raise InvalidValueError unless `address` is one that a transport of `kind` can have.

    `http` needs an http or https URL with a host, `tcp` a `host:port` (Dynamo appends a path to it), and
    `nats_tcp` a NATS subject without wildcards. Any other kind takes any JSON value but an empty one.
    """
    if address is None or (isinstance(address, (str, list, tuple, dict)) and not address):
        raise _refused(kind, address, "it is empty")
    if isinstance(address, str) and not address.strip():
        raise _refused(kind, address, "it is blank")
    check = _CHECKS.get(kind)
    if check is None:
        return
    if not isinstance(address, str):
        raise _refused(kind, address, f"it is {type(address).__name__}, not text")
    if any(character.isspace() or not character.isprintable() for character in address):
        raise _refused(kind, address, "it has a blank or a control character")
    fault = check(address)
    if fault is not None:
        raise _refused(kind, address, fault)


def _refused(kind: str, address: object, fault: str) -> InvalidValueError:
    example = _EXAMPLES.get(kind)
    hint = f"; give one such as {example!r}" if example else ""
    return InvalidValueError(f"{address!r:.80} is no address of a {kind} transport: {fault}{hint}")


def _http(address: str) -> str | None:
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError as error:
        return str(error)
    if url.scheme not in ("http", "https"):
        return "it is no http or https URL"
    return None if host else "the URL has no host"


def _tcp(address: str) -> str | None:
    found = _HOST_PORT.match(address)
    if found is None:
        return "it is no host:port"
    return None if 0 < int(found[1]) <= _LARGEST_PORT else f"the port is not between 1 and {_LARGEST_PORT}"


def _nats(address: str) -> str | None:
    tokens = address.split(".")
    if not all(tokens):
        return "the subject has an empty token"
    return "the subject has a wildcard" if {"*", ">"} & set(tokens) else None


_CHECKS = {"http": _http, "tcp": _tcp, "nats_tcp": _nats}
_EXAMPLES = {"http": "http://host:8080", "tcp": "host:8080", "nats_tcp": "shop.cart.checkout"}
