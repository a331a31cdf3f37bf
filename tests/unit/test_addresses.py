"""Addresses that a transport may have, by its kind."""

from __future__ import annotations

from typing import Any

import pytest

from natsdisc import EndpointInstance, EndpointSpec, InvalidValueError, Transport, wire

GOOD: list[tuple[str, object]] = [
    ("http", "http://a"),
    ("http", "https://[::1]:8080/path?q=1"),
    ("tcp", "host:1"),
    ("tcp", "[::1]:80"),
    ("tcp", "192.0.2.2:37623/8fc2b4cf134b6550/shop/cart/checkout"),
    ("nats_tcp", "addr"),
    ("nats_tcp", "dynamo_backend.generate-694d9b90ff8dea03"),
    ("quic", {"host": "a"}),
    ("quic", 0),
]
EMPTY: tuple[object, ...] = (None, "", "  ", [], {})
BAD: list[tuple[str, object]] = [
    *((kind, address) for kind in ("http", "tcp", "nats_tcp", "quic") for address in EMPTY),
    *(
        ("http", address)
        for address in ("host", "ftp://a", "http://", "http:///a", "http://a b", "http://a:x", 5)
    ),
    *(
        ("tcp", address)
        for address in ("host", "host:", ":1", "host:0", "host:65536", "::1:80", "a b:1", "h:1 ")
    ),
    *(("nats_tcp", address) for address in ("a b", "a..b", ".a", "a.", "a.*", "a.>", "a\n", 5)),
]


@pytest.mark.parametrize(("kind", "address"), GOOD, ids=repr)
def test_good_ones(kind: str, address: Any) -> None:
    assert EndpointSpec("a", "b", "c", transport=Transport(kind, address)).transport.address == address


@pytest.mark.parametrize(("kind", "address"), BAD, ids=repr)
def test_bad_ones_are_not_made_and_can_be_read(kind: str, address: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"no address of a {kind} transport"):
        EndpointSpec("a", "b", "c", transport=Transport(kind, address))
    foreign = EndpointInstance("a", "b", "c", 1, transport=Transport(kind, address))
    assert wire.loads(wire.dumps(foreign)) == foreign
