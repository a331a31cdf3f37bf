"""Where requests, values and leases are sent: to this account, to a domain, or below an import's prefix."""

from __future__ import annotations

from typing import Any

import pytest

from natsdisc import InvalidValueError
from natsdisc.acl import Role, permissions
from natsdisc.store.jetstream import JetStreamStore
from natsdisc.store.jetstream.subjects import Subjects

NC: Any = None
VALUE, LEASE, REQUEST = "$KV.v1_instances.a.b.c.1", "$NATSDISC.LEASE.v1_instances.a.b.c.1", "STREAM.INFO.KV_x"


@pytest.mark.parametrize(
    ("domain", "api_prefix", "sent"),
    [
        (None, None, (f"$JS.API.{REQUEST}", VALUE, LEASE)),
        (None, "$JS.API", (f"$JS.API.{REQUEST}", VALUE, LEASE)),
        ("hub", None, (f"$JS.hub.API.{REQUEST}", f"$JS.hub.API.{VALUE}", LEASE)),
        (None, "$JS.hub.API", (f"$JS.hub.API.{REQUEST}", f"$JS.hub.API.{VALUE}", LEASE)),
        (
            None,
            "from.REGISTRY.",
            (f"from.REGISTRY.{REQUEST}", f"from.REGISTRY.{VALUE}", f"from.REGISTRY.{LEASE}"),
        ),
    ],
)
def test_what_is_sent_where(domain: str | None, api_prefix: str | None, sent: tuple[str, str, str]) -> None:
    subjects = Subjects.of(domain, api_prefix)
    assert (subjects.call(REQUEST), subjects.publish(VALUE), subjects.publish(LEASE)) == sent


@pytest.mark.parametrize("domain", ["", "a.b", "a b", "*", ">", "a*", "a\n", 'a"', 3])
def test_what_is_no_domain(domain: str) -> None:
    with pytest.raises(InvalidValueError, match="domain must be"):
        JetStreamStore(NC, domain=domain)


@pytest.mark.parametrize("prefix", ["", ".", "a..b", ".a", "a b", "a.*", "a.>", "a\n", 3])
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(InvalidValueError, match="api_prefix must be"):
        JetStreamStore(NC, api_prefix=prefix)


def test_a_domain_and_a_prefix_exclude_each_other() -> None:
    with pytest.raises(InvalidValueError, match="exclude each other"):
        JetStreamStore(NC, domain="hub", api_prefix="$JS.hub.API")


def test_permissions_follow() -> None:
    plain = permissions(Role.REGISTRAR, namespace="shop", create=True)
    far = permissions(Role.REGISTRAR, namespace="shop", create=True, domain="hub")
    imported = permissions(Role.REGISTRAR, namespace="shop", create=True, api_prefix="far")
    assert far.subscribe == imported.subscribe == plain.subscribe
    for here, there, below in zip(plain.publish, far.publish, imported.publish, strict=True):
        if here.startswith("$JS.API."):
            assert there == here.replace("$JS.API", "$JS.hub.API", 1)
            assert below == here.replace("$JS.API", "far", 1)
        elif here.startswith("$KV."):
            assert (there, below) == (f"$JS.hub.API.{here}", f"far.{here}")
        elif here.startswith("$NATSDISC."):
            assert (there, below) == (here, f"far.{here}")
        else:
            assert here == there == below == "$JS.FC.>"
