"""Dynamo's event channels and event sources: bytes, keys, scopes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import (
    EventChannelInstance,
    EventChannelSpec,
    EventSourceInstance,
    EventSourceSpec,
    InvalidNameError,
    InvalidQueryError,
    InvalidValueError,
    Scope,
    Transport,
    entry,
    event_channels,
    event_sources,
    keys,
    wire,
)
from natsdisc.acl import Role, permissions
from natsdisc.model import MAX_SAFE_INSTANCE_ID, Kind, new_instance_id, sort_key
from tests import strategies

DATA = Path(__file__).resolve().parent.parent / "data" / "dynamo-1.6.json"
BUCKETS = {"v1/event_channels": Kind.EVENT_CHANNEL, "v1/event_sources": Kind.EVENT_SOURCE}
REAL = [
    (BUCKETS[bucket], path, one["value"].encode())
    for one in json.loads(DATA.read_text("utf-8"))
    for bucket in BUCKETS
    for path in [one["key"].removeprefix(f"{bucket}/")]
    if path != one["key"]
]

scopes = st.lists(strategies.names, min_size=1, max_size=3).map(lambda names: Scope(tuple(names)))
channels = st.builds(
    EventChannelInstance,
    scopes,
    strategies.names,
    strategies.instance_ids,
    transport=st.builds(Transport, strategies.names, strategies.json_values),
)
sources = st.builds(
    EventSourceInstance, scopes, strategies.names, strategies.instance_ids, metadata=strategies.json_values
)


def channel(scope: Scope, topic: str = "kv-events", number: int = 7) -> EventChannelInstance:
    zmq = Transport("Zmq", {"endpoint": "tcp://192.0.2.2:35299"})
    return EventChannelSpec(scope, topic, transport=zmq).with_instance_id(number)


def test_both_kinds_are_in_the_file() -> None:
    assert {kind for kind, _, _ in REAL} == {Kind.EVENT_CHANNEL, Kind.EVENT_SOURCE}


@pytest.mark.parametrize(("kind", "path", "value"), REAL)
def test_real_bytes_are_read_and_written_byte_for_byte(kind: Kind, path: str, value: bytes) -> None:
    key = path.replace("/", ".")
    for instance in (wire.loads(value), entry.decode(kind, key, value)):
        assert wire.dumps(instance) == value
        assert str(instance.id) == path
        assert keys.key_of(instance.id) == key
        assert keys.parse_key(kind, key) == instance.id
    newer = value[:-1] + b',"newer":{"a":1}}'
    changed = entry.decode(kind, key, newer)
    assert changed.extra == {"newer": {"a": 1}}
    assert wire.dumps(changed) == newer


def test_the_json_of_each_scope() -> None:
    def scope_of(scope: Scope) -> Any:
        return json.loads(wire.dumps(channel(scope)))["scope"]

    assert scope_of(Scope.namespace("a")) == {"kind": "namespace", "name": "a"}
    assert scope_of(Scope.component("a", "b")) == {"kind": "component", "namespace": "a", "component": "b"}
    endpoint = {"namespace": "a", "component": "b", "name": "c"}
    assert scope_of(Scope.endpoint("a", "b", "c")) == {"kind": "endpoint", "endpoint": endpoint}


def test_paths_are_encoded_as_dynamo_does_and_keys_as_we_do() -> None:
    id = channel(Scope.component("a/b", "é"), "x.y").id
    assert str(id) == "namespace/a%2Fb/component/%C3%A9/topic/x%2Ey/7"
    assert keys.key_of(id) == "namespace.a/b.component.=C3=A9.topic.x=2Ey.7"


@given(instance=channels | sources)
def test_any_comes_back_from_its_key_and_its_bytes(
    instance: EventChannelInstance | EventSourceInstance,
) -> None:
    kind = Kind.EVENT_CHANNEL if isinstance(instance, EventChannelInstance) else Kind.EVENT_SOURCE
    key, value = keys.key_of(instance.id), wire.dumps(instance)
    assert keys.parse_key(kind, key) == instance.id
    assert entry.decode(kind, key, value) == wire.loads(value) == instance
    other = dataclasses.replace(instance, topic=instance.topic + "x")
    assert keys.key_of(other.id) != key
    with pytest.raises(InvalidValueError, match="another instance"):
        entry.decode(kind, key, wire.dumps(other))


@given(one=channels, other=channels)
def test_order_is_that_of_the_ids(one: EventChannelInstance, other: EventChannelInstance) -> None:
    assert (one.id < other.id) == (sort_key(one) < sort_key(other))
    assert (one.id == other.id) == (sort_key(one) == sort_key(other))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "namespace.a.topic.t",
        "namespace.a.topik.t.7",
        "scope.a.topic.t.7",
        "namespace.a.endpoint.b.topic.t.7",
        "namespace.a.component.b.endpoint.c.other.d.topic.t.7",
        "namespace..topic.t.7",
        "namespace.a.topic.t.07",
        "namespace.a.topic.t.7.8",
    ],
)
def test_other_keys_are_none_of_ours(key: str) -> None:
    assert keys.parse_key(Kind.EVENT_CHANNEL, key) is None


def test_scopes_match_exactly() -> None:
    shop, cart = channel(Scope.namespace("shop")), channel(Scope.component("shop", "cart"))
    for query, expected in (
        (event_channels(), [shop, cart]),
        (event_channels(Scope.namespace("shop")), [shop]),
        (event_channels(Scope.namespace("shop"), "kv-events"), [shop]),
        (event_channels(Scope.namespace("shop"), "kv"), []),
        (event_channels(Scope.component("shop", "cart")), [cart]),
        (event_channels(Scope.component("shop", "car")), []),
        (event_sources(), []),
    ):
        assert [one for one in (shop, cart) if query.matches(one.id)] == expected
        below = keys.prefix_of(query)
        if query.kind is Kind.EVENT_CHANNEL:  # the prefix alone says it too
            found = [
                one for one in (shop, cart) if f"{keys.key_of(one.id)}.".startswith(f"{below}.".lstrip("."))
            ]
            assert found == expected


def test_what_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="scope"):
        event_channels(topic="kv-events")
    with pytest.raises(InvalidNameError):
        Scope.component("shop", "")
    with pytest.raises(InvalidNameError, match="topic"):
        channel(Scope.namespace("shop"), "")
    scope: Any = "shop"
    with pytest.raises(InvalidValueError, match="Scope"):
        EventSourceSpec(scope, "topic", metadata={})
    with pytest.raises(InvalidValueError, match="extra"):
        EventSourceSpec(Scope.namespace("a"), "topic", metadata={}, extra={"publisher_id": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"scope": {"kind": "galaxy", "name": "shop"}},
        {"scope": {"kind": "namespace", "name": "shop", "more": 1}},
        {"scope": "shop"},
        {"transport": {"Zmq": "a"}},
        {"transport": {"kind": "Zmq", "config": {}, "more": 1}},
        {"topic": ""},
        {"instance_id": -1},
    ],
)
def test_values_that_are_no_channels(change: dict[str, Any]) -> None:
    fields = json.loads(wire.dumps(channel(Scope.namespace("shop"))))
    with pytest.raises(InvalidValueError):
        wire.loads(json.dumps({**fields, **change}).encode())


def test_the_transport_as_on_the_wire_is_taken_too() -> None:
    one: Any = {"kind": "Zmq", "config": {"endpoint": "tcp://h:1"}}
    spec = EventChannelSpec(Scope.namespace("a"), "t", transport=one)
    assert spec.transport == Transport("Zmq", {"endpoint": "tcp://h:1"})


def test_permissions_of_a_namespace_cover_its_events() -> None:
    allowed = permissions(Role.REGISTRAR, namespace="shop").publish
    assert "$KV.v1_event_channels.namespace.shop.>" in allowed
    assert "$NATSDISC.LEASE.v1_event_sources.namespace.shop.>" in allowed
    assert "$KV.v1_instances.shop.>" in allowed
    allowed = permissions(Role.REGISTRAR, namespace="shop", component="cart").publish
    assert "$KV.v1_event_sources.namespace.shop.component.cart.>" in allowed


def test_default_ids_fit_what_javascript_holds() -> None:
    ids = [new_instance_id() for _ in range(1000)]
    assert all(0 < id <= MAX_SAFE_INSTANCE_ID == 2**53 - 1 for id in ids)
    assert max(ids) > 2**50
