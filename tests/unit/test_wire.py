"""Instances as the seed's JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import entry, wire
from natsdisc.errors import InvalidValueError
from natsdisc.model import EndpointInstance, EndpointSpec, Instance, Kind, ModelInstance, Status, Transport
from tests import strategies

DATA = Path(__file__).resolve().parent.parent / "data" / "dynamo-registry.json"
ENTRIES = [(entry["key"], entry["value"]) for entry in json.loads(DATA.read_text("utf-8"))["entries"]]

NEWER = [
    (entry["key"].removeprefix("v1/"), entry["value"].encode())
    for entry in json.loads((DATA.parent / "dynamo-1.6.json").read_text("utf-8"))
    if entry["key"].startswith(("v1/instances/", "v1/mdc/"))
]

ENDPOINT: dict[str, Any] = {
    "type": "Endpoint",
    "component": "cart",
    "endpoint": "checkout",
    "namespace": "shop",
    "instance_id": 7,
    "transport": {"nats_tcp": "shop.cart"},
}
MODEL: dict[str, Any] = {
    "type": "Model",
    "namespace": "shop",
    "component": "cart",
    "endpoint": "checkout",
    "instance_id": 7,
    "card_json": {"name": "Qwen"},
}


def encoded(fields: object) -> bytes:
    return json.dumps(fields).encode()


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if field != name}


def endpoint(transport: Transport | None = None, **fields: Any) -> EndpointInstance:
    return EndpointInstance(
        "shop", "cart", "checkout", 7, transport=transport or Transport.nats("shop.cart"), **fields
    )


def both_ways(fields: dict[str, Any]) -> list[EndpointInstance]:
    """The instance in a value, read alone and at its key."""
    alone = wire.loads(encoded(fields))
    at_key = entry.decode(Kind.ENDPOINT, "shop.cart.checkout.7", encoded(fields))
    assert alone == at_key
    assert isinstance(alone, EndpointInstance)
    assert isinstance(at_key, EndpointInstance)
    return [alone, at_key]


def model(card: Any, **fields: Any) -> ModelInstance:
    return ModelInstance("shop", "cart", "checkout", 7, card=card, **fields)


class TestTheBytesOfDynamo16:
    @pytest.mark.parametrize(("path", "value"), NEWER)
    def test_they_are_read_and_written_byte_for_byte(self, path: str, value: bytes) -> None:
        bucket, *names = path.split("/")
        kind = {"instances": Kind.ENDPOINT, "mdc": Kind.MODEL}[bucket]
        for instance in (wire.loads(value), entry.decode(kind, ".".join(names), value)):
            assert wire.dumps(instance) == value
            assert str(instance.id) == "/".join(names)

    def test_their_newer_fields_are_extra(self) -> None:
        [endpoint] = [wire.loads(value) for path, value in NEWER if path.startswith("instances/")]
        assert endpoint.extra == {"device_type": "cuda", "request_plane_codec": "msgpack"}
        assert isinstance(endpoint, EndpointInstance)
        moved = dataclasses.replace(endpoint, transport=Transport.tcp("host:1"), metadata={"zone": "a"})
        assert wire.dumps(moved).endswith(
            b'"transport":{"tcp":"host:1"},"metadata":{"zone":"a"},'
            b'"device_type":"cuda","request_plane_codec":"msgpack"}'
        )


class TestTheSeedsBytes:
    @pytest.mark.parametrize(("path", "value"), ENTRIES, ids=[key for key, _ in ENTRIES])
    def test_real_values_come_back_byte_for_byte(self, path: str, value: str) -> None:
        assert wire.dumps(wire.loads(value.encode())) == value.encode()

    @pytest.mark.parametrize(("path", "value"), ENTRIES, ids=[key for key, _ in ENTRIES])
    def test_their_ids_are_the_seeds_paths(self, path: str, value: str) -> None:
        instance = wire.loads(value.encode())
        bucket = "v1/instances/" if isinstance(instance, EndpointInstance) else "v1/mdc/"
        assert f"{bucket}{instance.id}" == path

    def test_both_kinds_are_there(self) -> None:
        kinds = {type(wire.loads(value.encode())) for _, value in ENTRIES}
        assert kinds == {EndpointInstance, ModelInstance}

    def test_an_endpoint(self) -> None:
        assert wire.dumps(endpoint()) == (
            b'{"type":"Endpoint","component":"cart","endpoint":"checkout","namespace":"shop","instance_id":7,'
            b'"transport":{"nats_tcp":"shop.cart"}}'
        )

    def test_metadata_goes_last_and_only_when_there_is_some(self) -> None:
        assert wire.dumps(endpoint(metadata={})) == wire.dumps(endpoint())
        assert wire.dumps(endpoint(metadata={"zone": "a"})) == (
            wire.dumps(endpoint())[:-1] + b',"metadata":{"zone":"a"}}'
        )

    def test_a_suffix_goes_last_and_only_when_there_is_one(self) -> None:
        bare = (
            b'{"type":"Model","namespace":"shop","component":"cart","endpoint":"checkout","instance_id":7,'
            b'"card_json":{"b":1,"a":2}}'
        )
        card = {"b": 1, "a": 2}
        assert wire.dumps(model(card)) == wire.dumps(model(card, model_suffix="")) == bare
        assert wire.dumps(model(card, model_suffix="lora")) == bare[:-1] + b',"model_suffix":"lora"}'

    def test_a_u64_is_written_in_full(self) -> None:
        instance = EndpointInstance("a", "b", "c", 2**64 - 1, transport=Transport.tcp("d"))
        assert b'"instance_id":18446744073709551615,' in wire.dumps(instance)
        assert wire.loads(wire.dumps(instance)) == instance

    @given(instance=strategies.instances)
    def test_the_fields_stand_in_the_seeds_order(self, instance: Instance) -> None:
        fields = list(json.loads(wire.dumps(instance)))
        if isinstance(instance, EndpointInstance):
            expected = ["type", "component", "endpoint", "namespace", "instance_id", "transport"]
            expected += ["metadata"] if instance.metadata else []
            assert fields == expected + (["status"] if instance.status is not Status.SERVING else [])
        else:
            assert isinstance(instance, ModelInstance)
            expected = ["type", "namespace", "component", "endpoint", "instance_id", "card_json"]
            assert fields == [*expected, *(["model_suffix"] if instance.model_suffix else [])]


class TestStatus:
    def test_it_goes_after_the_metadata_and_only_when_not_serving(self) -> None:
        assert wire.dumps(endpoint(status=Status.SERVING)) == wire.dumps(endpoint())
        zone = wire.dumps(endpoint(metadata={"zone": "a"}))
        for status in ("draining", "unhealthy", "disabled"):
            instance = endpoint(metadata={"zone": "a"}, status=Status(status), extra={"x": 1})
            data = wire.dumps(instance)
            assert data == zone[:-1] + b',"status":"%s","x":1}' % status.encode()
            assert wire.loads(data) == instance
            assert entry.decode(Kind.ENDPOINT, "shop.cart.checkout.7", data) == instance

    def test_serving_in_so_many_words(self) -> None:
        for instance in both_ways({**ENDPOINT, "status": "serving"}):
            assert instance == endpoint()

    @pytest.mark.parametrize("text", ["degraded", "", "Draining"])
    def test_one_of_a_newer_version_counts_as_unhealthy_and_is_kept(self, text: str) -> None:
        for instance in both_ways({**ENDPOINT, "status": text, "x": 1}):
            assert instance.status is Status.UNHEALTHY
            assert instance.extra == {"status": text, "x": 1}
            changed = dataclasses.replace(instance, metadata={"zone": "a"})
            assert changed.extra == instance.extra
            assert json.loads(wire.dumps(changed))["status"] == text
            for status in (Status.SERVING, Status.DRAINING, Status.DISABLED):
                assert dataclasses.replace(changed, status=status).extra == {"x": 1}

    @pytest.mark.parametrize("value", [None, 5, True, {"a": 1}, ["draining"]])
    def test_a_field_of_that_name_that_is_no_text_means_nothing(self, value: Any) -> None:
        for instance in both_ways({**ENDPOINT, "status": value}):
            assert instance.status is Status.SERVING
            assert instance.extra == {"status": value}
            assert json.loads(wire.dumps(instance))["status"] == value
            drained = dataclasses.replace(instance, status=Status.DRAINING)
            assert json.loads(wire.dumps(drained))["status"] == "draining"

    def test_a_card_has_none(self) -> None:
        card = wire.loads(encoded({**MODEL, "status": "draining"}))
        assert card.extra == {"status": "draining"}
        assert not hasattr(card, "status")

    def test_text_is_taken_for_a_status(self) -> None:
        status: Any = "draining"
        assert endpoint(status=status).status is Status.DRAINING
        for wrong in ("gone", "", None, 1):
            with pytest.raises(InvalidValueError, match="serving, draining, unhealthy, disabled"):
                endpoint(status=wrong)

    def test_extra_cannot_hold_a_status_that_we_know(self) -> None:
        with pytest.raises(InvalidValueError, match="extra"):
            endpoint(extra={"status": "draining"})
        with pytest.raises(InvalidValueError, match="extra"):
            EndpointSpec("a", "b", "c", transport=Transport.nats("d"), extra={"status": "odd"})


class TestRoundTrip:
    @given(instance=strategies.instances)
    def test_an_instance_comes_back_as_it_was(self, instance: Instance) -> None:
        data = wire.dumps(instance)
        assert wire.loads(data) == instance
        assert wire.dumps(wire.loads(data)) == data
        json.loads(data)  # and it is JSON for everybody

    @pytest.mark.parametrize("address", ["quic://a", {"host": "a", "port": 1}, ["a", 1], None, 5], ids=repr)
    def test_a_transport_of_an_unknown_kind_is_kept(self, address: Any) -> None:
        data = encoded({**ENDPOINT, "transport": {"quic": address}})
        instance = wire.loads(data)
        assert isinstance(instance, EndpointInstance)
        assert instance.transport == Transport("quic", address)
        assert json.loads(wire.dumps(instance))["transport"] == {"quic": address}

    @pytest.mark.parametrize("card", [None, True, 0, -1.5, "card", [], [1, {"a": None}], {}], ids=repr)
    def test_a_card_is_any_json_value(self, card: Any) -> None:
        assert wire.loads(wire.dumps(model(card))) == model(card)

    def test_fields_of_the_future_are_kept_and_come_last(self) -> None:
        data = encoded({**ENDPOINT, "region": "eu", "metadata": {"a": 1}, "beta": [None]})
        instance = wire.loads(data)
        assert instance == endpoint(metadata={"a": 1}, extra={"region": "eu", "beta": [None]})
        fields = json.loads(wire.dumps(instance))
        assert list(fields) == [*ENDPOINT, "metadata", "region", "beta"]
        assert fields == json.loads(data)
        card = wire.loads(encoded({**MODEL, "region": "eu", "model_suffix": "lora"}))
        assert list(json.loads(wire.dumps(card))) == [*MODEL, "model_suffix", "region"]

    @pytest.mark.parametrize("name", ["instance_id", "type", 1])
    def test_an_extra_field_has_a_name_of_its_own(self, name: Any) -> None:
        with pytest.raises(InvalidValueError, match="extra"):
            endpoint(extra={name: 1})

    def test_order_and_blanks_do_not_matter(self) -> None:
        data = json.dumps(dict(reversed(ENDPOINT.items())), indent=2).encode()
        assert wire.loads(data) == endpoint()

    @pytest.mark.parametrize("suffix", [None, ""])
    def test_an_empty_suffix_is_none(self, suffix: str | None) -> None:
        assert wire.loads(encoded({**MODEL, "model_suffix": suffix})) == model({"name": "Qwen"})


ANY_BUT_A_NAME: list[Any] = [None, 1, "", [], {}, True]
ANY_BUT_AN_ID: list[Any] = [None, True, -1, 2**64, 1.0, "7", [], {}]
ANY_BUT_A_TYPE: list[Any] = [None, 1, "", "endpoint", "Endpoints", "Tool", [], {}]
TWO_KINDS = {"tcp": "a", "http": "b"}
ANY_BUT_A_TRANSPORT: list[Any] = [None, 1, "tcp", [], ["tcp", "a"], {}, TWO_KINDS, {"": "a"}]
ANY_BUT_METADATA: list[Any] = [None, 1, "a", [], [["a", 1]], True]
ANY_BUT_A_SUFFIX: list[Any] = [0, 1, False, True, [], {}]
NO_OBJECT: list[Any] = [None, True, 1, "Endpoint", [], [ENDPOINT], {}]
MALFORMED: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("half", encoded(ENDPOINT)[:-1]),
    ("two", encoded(ENDPOINT) * 2),
    ("utf-16", json.dumps(ENDPOINT).encode("utf-16")),
    ("not utf-8", encoded(ENDPOINT).replace(b"shop.cart", b"\xff\xfe")),
    ("lone surrogate", encoded({**ENDPOINT, "namespace": "\ud800"})),
    ("NaN", encoded({**MODEL, "card_json": math.nan})),
    ("infinity", encoded(MODEL).replace(b'"Qwen"', b"1e400")),
    ("deeper than any reader goes", b"[" * 100_000),
    *((f"just {value!r}", encoded(value)) for value in NO_OBJECT),
    *((f"endpoint without {name}", encoded(without(ENDPOINT, name))) for name in ENDPOINT),
    *((f"model without {name}", encoded(without(MODEL, name))) for name in MODEL),
    *(
        (f"{name} is {value!r}", encoded({**fields, name: value}))
        for fields in (ENDPOINT, MODEL)
        for name in ("namespace", "component", "endpoint")
        for value in ANY_BUT_A_NAME
    ),
    *((f"instance_id is {value!r}", encoded({**ENDPOINT, "instance_id": value})) for value in ANY_BUT_AN_ID),
    *((f"type is {value!r}", encoded({**ENDPOINT, "type": value})) for value in ANY_BUT_A_TYPE),
    *(
        (f"transport is {value!r}", encoded({**ENDPOINT, "transport": value}))
        for value in ANY_BUT_A_TRANSPORT
    ),
    *((f"metadata is {value!r}", encoded({**ENDPOINT, "metadata": value})) for value in ANY_BUT_METADATA),
    *(
        (f"model_suffix is {value!r}", encoded({**MODEL, "model_suffix": value}))
        for value in ANY_BUT_A_SUFFIX
    ),
]


class TestMalformed:
    @pytest.mark.parametrize("data", [data for _, data in MALFORMED], ids=[what for what, _ in MALFORMED])
    def test_it_is_an_invalid_value(self, data: bytes) -> None:
        with pytest.raises(InvalidValueError):
            wire.loads(data)

    @pytest.mark.parametrize("name", [*ENDPOINT, "metadata"])
    @pytest.mark.parametrize("depth", [100, 500, 1000, 1020])
    def test_what_is_nested_deeply_in_the_wrong_place_is_an_invalid_value(
        self, name: str, depth: int
    ) -> None:
        fields = {field: encoded(value) for field, value in ENDPOINT.items()}
        fields[name] = b"[" * depth + b"]" * depth
        data = b"{" + b",".join(encoded(field) + b":" + value for field, value in fields.items()) + b"}"
        with pytest.raises(InvalidValueError):
            wire.loads(data)

    @given(data=st.binary())
    def test_bytes_never_raise_anything_else(self, data: bytes) -> None:
        with pytest.raises(InvalidValueError):
            wire.loads(data)

    @given(value=strategies.json_values)
    def test_json_never_raises_anything_else(self, value: Any) -> None:
        with pytest.raises(InvalidValueError):
            wire.loads(encoded(value))

    @given(
        fields=st.sampled_from([ENDPOINT, MODEL]),
        name=st.sampled_from([*{**ENDPOINT, **MODEL}, "metadata", "model_suffix"]),
        value=strategies.json_values | st.dictionaries(strategies.texts, strategies.json_values, max_size=1),
    )
    def test_a_damaged_field_is_refused_or_kept(self, fields: dict[str, Any], name: str, value: Any) -> None:
        try:
            instance = wire.loads(encoded({**fields, name: value}))
        except InvalidValueError:
            return
        assert wire.loads(wire.dumps(instance)) == instance

    @given(
        instance=strategies.instances,
        at=st.integers(0, 300),
        drop=st.integers(0, 3),
        new=st.binary(max_size=3),
    )
    def test_damaged_bytes_are_refused_or_an_instance(
        self, instance: Instance, at: int, drop: int, new: bytes
    ) -> None:
        data = wire.dumps(instance)
        try:
            damaged = wire.loads(data[:at] + new + data[at + drop :])
        except InvalidValueError:
            return
        assert isinstance(damaged, EndpointInstance | ModelInstance)


@dataclasses.dataclass
class Card:
    name: str = "Qwen"


def circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


NO_JSON: dict[str, Any] = {
    "object": object(),
    "set": {1},
    "bytes": b"card",
    "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2024, 1, 1),
    "time": datetime.time(1),
    "dataclass": Card(),
    "complex": 1j,
    "lone surrogate": "\ud800",
    "circle": circle(),
    "int above": 2**64,
    "int below": -(2**63) - 1,
    "not a number": math.nan,
    "infinity": math.inf,
}


class TestWithoutJson:
    @pytest.mark.parametrize("depth", ["itself", "in a list", "in an object"])
    @pytest.mark.parametrize("what", NO_JSON)
    def test_a_card_without_a_json_form_is_refused(self, what: str, depth: str) -> None:
        value = NO_JSON[what]
        card = {"itself": value, "in a list": [1, value], "in an object": {"a": {"b": value}}}[depth]
        with pytest.raises(InvalidValueError, match="shop/cart/checkout/7"):
            wire.dumps(model(card))

    @pytest.mark.parametrize("what", NO_JSON)
    def test_metadata_and_addresses_too(self, what: str) -> None:
        with pytest.raises(InvalidValueError, match="shop/cart/checkout/7"):
            wire.dumps(endpoint(metadata={"a": NO_JSON[what]}))
        with pytest.raises(InvalidValueError, match="shop/cart/checkout/7"):
            wire.dumps(endpoint(Transport("quic", [NO_JSON[what]])))

    @pytest.mark.parametrize("key", [1, None, b"a", (1,), "\ud800"], ids=repr)
    def test_an_objects_keys_are_text(self, key: Any) -> None:
        with pytest.raises(InvalidValueError):
            wire.dumps(model({key: 1}))
        with pytest.raises(InvalidValueError):
            wire.dumps(endpoint(metadata={key: 1}))

    @pytest.mark.parametrize("value", [None, {}, ENDPOINT, "instance"], ids=type)
    def test_only_instances_are_written(self, value: Any) -> None:
        with pytest.raises(InvalidValueError, match="not an instance"):
            wire.dumps(value)
