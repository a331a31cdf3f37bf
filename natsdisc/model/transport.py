"""How to reach an endpoint or an event channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidValueError
from ..frozen import freeze
from .names import check_name

__all__ = ["Transport", "check_transport", "event_transport"]


def check_transport(transport: object) -> None:
    if not isinstance(transport, Transport):
        raise InvalidValueError(f"transport must be a Transport, not {type(transport).__name__}")


@dataclass(frozen=True, slots=True)
class Transport:
    """How to reach an endpoint: a kind (`nats_tcp`, `http`, `tcp`, or any other) and its address.

    The address of a kind this library does not know may be any JSON value and is kept as it is.
    """

    kind: str
    address: Any = field(hash=False)

    def __post_init__(self) -> None:
        check_name("transport kind", self.kind)
        if isinstance(self.address, str):
            try:
                self.address.encode()
            except UnicodeEncodeError:
                raise InvalidValueError(f"transport address has no UTF-8 form: {self.address!r}") from None
        else:
            object.__setattr__(self, "address", freeze(self.address))

    @classmethod
    def nats(cls, address: str) -> Transport:
        """A NATS subject."""
        return cls("nats_tcp", address)

    @classmethod
    def http(cls, address: str) -> Transport:
        """An HTTP URL."""
        return cls("http", address)

    @classmethod
    def tcp(cls, address: str) -> Transport:
        """A `host:port`."""
        return cls("tcp", address)


def event_transport(transport: object) -> Transport:
    """Return a Transport; a mapping of `kind` and `config`, as on the wire, is one too."""
    if isinstance(transport, Mapping) and transport.keys() == {"kind", "config"}:
        return Transport(transport["kind"], transport["config"])
    check_transport(transport)
    assert isinstance(transport, Transport)
    return transport
