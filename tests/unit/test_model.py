"""What is discovered: checked when it is made, frozen, and what equality and order mean."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc.errors import InvalidIdError, InvalidNameError, InvalidQueryError, InvalidValueError
from natsdisc.model import (
    MAX_INSTANCE_ID,
    Added,
    EndpointInstance,
    EndpointInstanceId,
    EndpointSpec,
    Event,
    Instance,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    ModelInstance,
    ModelSpec,
    Query,
    RemovalReason,
    Removed,
    Spec,
    Transport,
    endpoints,
    models,
)
from tests import strategies

PLACE = ["namespace", "component", "endpoint"]
TRANSPORT = Transport.tcp("host:1")
BAD_NAMES = ["", None, 1, b"ns", ["ns"], "\ud800", "ns\udfff"]
BAD_IDS = [True, False, -1, 2**64, 1.0, "1", None]

Make = Callable[..., Any]


def endpoint_id(namespace: Any = "ns", component: Any = "c", endpoint: Any = "e", number: Any = 1) -> Any:
    return EndpointInstanceId(namespace, component, endpoint, number)


def model_id(namespace: Any = "ns", component: Any = "c", endpoint: Any = "e", number: Any = 1) -> Any:
    return ModelCardInstanceId(namespace, component, endpoint, number)


def endpoint_spec(namespace: Any = "ns", component: Any = "c", endpoint: Any = "e") -> Any:
    return EndpointSpec(namespace, component, endpoint, transport=TRANSPORT)


def model_spec(namespace: Any = "ns", component: Any = "c", endpoint: Any = "e") -> Any:
    return ModelSpec(namespace, component, endpoint, card={})


def endpoint_instance(
    namespace: Any = "ns", component: Any = "c", endpoint: Any = "e", number: Any = 1
) -> Any:
    return EndpointInstance(namespace, component, endpoint, number, transport=TRANSPORT)


def model_instance(namespace: Any = "ns", component: Any = "c", endpoint: Any = "e", number: Any = 1) -> Any:
    return ModelInstance(namespace, component, endpoint, number, card={})


PLACED: list[Make] = [endpoint_id, model_id, endpoint_spec, model_spec, endpoint_instance, model_instance]
NUMBERED: list[Make] = [endpoint_id, model_id, endpoint_instance, model_instance]


class TestValidation:
    @pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
    @pytest.mark.parametrize("what", PLACE)
    @pytest.mark.parametrize("make", PLACED)
    def test_a_name_must_be_text_that_can_be_written(self, make: Make, what: str, name: object) -> None:
        with pytest.raises(InvalidNameError, match=what):
            make(**{what: name})

    @pytest.mark.parametrize("number", BAD_IDS, ids=repr)
    @pytest.mark.parametrize("make", NUMBERED)
    def test_an_instance_id_must_be_a_u64(self, make: Make, number: object) -> None:
        with pytest.raises(InvalidIdError, match="instance_id"):
            make(number=number)

    @pytest.mark.parametrize("number", [0, MAX_INSTANCE_ID])
    @pytest.mark.parametrize("make", NUMBERED)
    def test_an_instance_id_has_all_of_a_u64(self, make: Make, number: int) -> None:
        assert make(number=number).instance_id == number

    @pytest.mark.parametrize("number", BAD_IDS, ids=repr)
    def test_a_spec_becomes_an_instance_with_a_u64_only(self, number: Any) -> None:
        for spec in (endpoint_spec(), model_spec()):
            with pytest.raises(InvalidIdError):
                spec.with_instance_id(number)

    @pytest.mark.parametrize("suffix", [1, b"lora", "\ud800", False, []], ids=repr)
    def test_a_suffix_must_be_text_that_can_be_written(self, suffix: Any) -> None:
        with pytest.raises(InvalidNameError, match="model_suffix"):
            ModelCardInstanceId("ns", "c", "e", 1, suffix)
        with pytest.raises(InvalidNameError, match="model_suffix"):
            ModelSpec("ns", "c", "e", card={}, model_suffix=suffix)
        with pytest.raises(InvalidNameError, match="model_suffix"):
            ModelInstance("ns", "c", "e", 1, card={}, model_suffix=suffix)

    def test_an_empty_suffix_is_none(self) -> None:
        assert ModelCardInstanceId("ns", "c", "e", 1, "") == ModelCardInstanceId("ns", "c", "e", 1)
        assert ModelSpec("ns", "c", "e", card={}, model_suffix="").model_suffix is None
        assert ModelInstance("ns", "c", "e", 1, card={}, model_suffix="").model_suffix is None

    @pytest.mark.parametrize("transport", [None, "host:1", {"tcp": "host:1"}, ("tcp", "host:1")], ids=repr)
    def test_a_transport_must_be_a_transport(self, transport: Any) -> None:
        with pytest.raises(InvalidValueError, match="Transport"):
            EndpointSpec("ns", "c", "e", transport=transport)
        with pytest.raises(InvalidValueError, match="Transport"):
            EndpointInstance("ns", "c", "e", 1, transport=transport)

    @pytest.mark.parametrize("kind", BAD_NAMES, ids=repr)
    def test_a_transport_kind_must_be_text_that_can_be_written(self, kind: Any) -> None:
        with pytest.raises(InvalidNameError, match="transport kind"):
            Transport(kind, "address")

    def test_a_transport_address_must_have_a_utf8_form(self) -> None:
        with pytest.raises(InvalidValueError, match="address"):
            Transport.http("http://\udc80")

    @pytest.mark.parametrize("metadata", [None, [], "a", [("a", 1)], 1], ids=repr)
    def test_metadata_must_be_a_mapping(self, metadata: Any) -> None:
        with pytest.raises(InvalidValueError, match="metadata"):
            EndpointSpec("ns", "c", "e", transport=TRANSPORT, metadata=metadata)
        with pytest.raises(InvalidValueError, match="metadata"):
            EndpointInstance("ns", "c", "e", 1, transport=TRANSPORT, metadata=metadata)

    def test_metadata_may_be_any_mapping(self) -> None:
        proxy = MappingProxyType({"zone": "a"})
        assert EndpointSpec("ns", "c", "e", transport=TRANSPORT, metadata=proxy).metadata == {"zone": "a"}

    def test_two_specs_do_not_share_their_empty_metadata(self) -> None:
        assert endpoint_spec().metadata is not endpoint_spec().metadata

    @given(spec=strategies.specs, number=strategies.instance_ids)
    def test_an_instance_has_its_specs_fields_and_id(self, spec: Spec, number: int) -> None:
        instance = spec.with_instance_id(number)
        assert instance.instance_id == instance.id.instance_id == number
        for field in dataclasses.fields(spec):
            assert getattr(instance, field.name) == getattr(spec, field.name)
        assert isinstance(spec, (EndpointSpec, ModelSpec))
        place = (spec.namespace, spec.component, spec.endpoint)
        assert (instance.id.namespace, instance.id.component, instance.id.endpoint) == place
        if isinstance(instance, ModelInstance):
            assert instance.id.model_suffix == instance.model_suffix


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        (Transport.nats("shop.cart"), "nats_tcp"),
        (Transport.http("shop.cart"), "http"),
        (Transport.tcp("shop.cart"), "tcp"),
    ],
)
def test_transports_have_the_seeds_kinds(transport: Transport, kind: str) -> None:
    assert transport == Transport(kind, "shop.cart")


VALUES: list[Any] = [
    TRANSPORT,
    *(make() for make in PLACED),
    endpoints("ns"),
    Added(endpoint_instance()),
    Removed(endpoint_id(), RemovalReason.EXPIRED),
]


class TestValues:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_are_frozen_and_slotted(self, value: Any) -> None:
        assert not hasattr(value, "__dict__")
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, getattr(value, field.name))

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_can_be_copied_and_pickled(self, value: Any) -> None:
        assert copy.deepcopy(value) == value
        assert pickle.loads(pickle.dumps(value)) == value

    @given(id=strategies.ids)
    def test_ids_are_hashable(self, id: InstanceId) -> None:
        assert {id: 1}[copy.copy(id)] == 1

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_fit_into_sets(self, value: Any) -> None:
        assert value in {copy.copy(value)}

    @given(instance=strategies.instances)
    def test_instances_fit_into_sets_whatever_json_they_hold(self, instance: Instance) -> None:
        assert instance in {copy.deepcopy(instance)}
        assert hash(Removed(instance.id, RemovalReason.EXPIRED, instance)) is not None

    def test_only_what_names_a_value_can_be_given_by_position(self) -> None:
        with pytest.raises(TypeError):
            EndpointSpec("ns", "c", "e", TRANSPORT)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            ModelSpec("ns", "c", "e", {})  # type: ignore[call-arg]


class TestIds:
    @pytest.mark.parametrize(
        ("id", "path"),
        [
            (EndpointInstanceId("ns", "comp", "ep", 0x694D9B90FF8DEA03), "ns/comp/ep/694d9b90ff8dea03"),
            (EndpointInstanceId("ns", "comp", "ep", 0), "ns/comp/ep/0"),
            (EndpointInstanceId("a.b", "c d", "é", MAX_INSTANCE_ID), "a.b/c d/é/ffffffffffffffff"),
            (ModelCardInstanceId("ns", "comp", "ep", 0xABC), "ns/comp/ep/abc"),
            (ModelCardInstanceId("ns", "comp", "ep", 0xABC, "lora.1"), "ns/comp/ep/abc/lora.1"),
            (ModelCardInstanceId("ns", "comp", "ep", 0xABC, ""), "ns/comp/ep/abc"),
        ],
    )
    def test_an_id_prints_as_the_seeds_path(self, id: InstanceId, path: str) -> None:
        assert str(id) == path

    def test_ids_are_sorted_by_name_then_number(self) -> None:
        in_order = [
            EndpointInstanceId("a", "a", "a", 2),
            EndpointInstanceId("a", "a", "a", 10),
            EndpointInstanceId("a", "a", "b", 1),
            EndpointInstanceId("a", "b", "a", 1),
            EndpointInstanceId("b", "a", "a", 1),
        ]
        shuffled = random.Random(1).sample(in_order, len(in_order))
        assert sorted(shuffled) == in_order

    def test_a_card_without_a_suffix_comes_before_its_adapters(self) -> None:
        in_order = [
            ModelCardInstanceId("a", "a", "a", 2),
            ModelCardInstanceId("a", "a", "a", 2, "lora-a"),
            ModelCardInstanceId("a", "a", "a", 2, "lora-b"),
            ModelCardInstanceId("a", "a", "a", 10),
            ModelCardInstanceId("a", "a", "b", 1, "a"),
        ]
        for seed in range(5):
            assert sorted(random.Random(seed).sample(in_order, len(in_order))) == in_order

    @given(ids=st.lists(strategies.model_ids, min_size=2, max_size=5))
    def test_the_order_of_card_ids_is_total(self, ids: list[ModelCardInstanceId]) -> None:
        for one in ids:
            for other in ids:
                assert [one < other, one == other, other < one].count(True) == 1

    def test_ids_of_two_kinds_differ_and_have_no_order(self) -> None:
        assert endpoint_id() != model_id()
        with pytest.raises(TypeError):
            sorted([model_id(), endpoint_id()])


class TestQuery:
    @pytest.mark.parametrize("make", [endpoints, models])
    @pytest.mark.parametrize(
        "names",
        [
            {"component": "c"},
            {"endpoint": "e"},
            {"component": "c", "endpoint": "e"},
            {"namespace": "ns", "endpoint": "e"},
        ],
        ids=str,
    )
    def test_a_hole_is_refused(self, make: Callable[..., Query], names: dict[str, str]) -> None:
        with pytest.raises(InvalidQueryError) as info:
            make(**names)
        assert isinstance(info.value, ValueError)

    @pytest.mark.parametrize("name", ["", 1, b"ns", "\ud800"], ids=repr)
    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_its_names_are_names(self, depth: int, name: Any) -> None:
        with pytest.raises(InvalidNameError):
            Query(Kind.ENDPOINT, **dict(zip(PLACE, [*["ns", "c"][:depth], name], strict=False)))

    @pytest.mark.parametrize("names", [(), ("ns",), ("ns", "c"), ("ns", "c", "e")])
    def test_its_names_come_outermost_first(self, names: tuple[str, ...]) -> None:
        assert endpoints(*names).names == models(*names).names == names
        assert endpoints(*names) == endpoints(*names)
        assert endpoints(*names).kind is Kind.ENDPOINT
        assert models(*names).kind is Kind.MODEL
        assert str(models(*names)) == "/".join(("models", *names))

    @given(data=st.data(), id=strategies.ids)
    def test_it_has_what_is_below_its_names_and_of_its_kind(
        self, data: st.DataObject, id: InstanceId
    ) -> None:
        query = data.draw(strategies.queries_near(id) | strategies.queries())
        wanted = all(
            name in (None, is_called)
            for name, is_called in [
                (query.namespace, id.namespace),
                (query.component, id.component),
                (query.endpoint, id.endpoint),
            ]
        )
        is_endpoint = isinstance(id, EndpointInstanceId)
        assert query.matches(id) == (wanted and is_endpoint == (query.kind is Kind.ENDPOINT))

    def test_a_name_that_only_begins_alike_is_another(self) -> None:
        assert not endpoints("ns1").matches(EndpointInstanceId("ns10", "c", "e", 1))
        assert not endpoints("ns10").matches(EndpointInstanceId("ns1", "c", "e", 1))
        assert endpoints("ns1").matches(EndpointInstanceId("ns1", "c", "e", 1))


class TestEvents:
    @given(instance=strategies.instances)
    def test_events_can_be_matched_by_position(self, instance: Instance) -> None:
        events: list[Event] = [Added(instance), Removed(instance.id, RemovalReason.EXPIRED, instance)]
        seen: list[object] = []
        for event in events:
            match event:
                case Added(it):
                    seen.append(it)
                case Removed(id, reason):
                    seen.append((id, reason))
        assert seen == [instance, (instance.id, RemovalReason.EXPIRED)]

    def test_the_last_instance_is_no_part_of_what_a_removal_says(self) -> None:
        bare = Removed(endpoint_id(), RemovalReason.EXPIRED)
        full = Removed(endpoint_id(), RemovalReason.EXPIRED, endpoint_instance())
        assert bare == full
        assert hash(bare) == hash(full)
        assert full.last == endpoint_instance()
        assert bare != Removed(endpoint_id(), RemovalReason.MISSING)

    def test_a_reason_is_its_text(self) -> None:
        assert [str(reason) for reason in RemovalReason] == [
            "unregistered",
            "expired",
            "missing",
            "unmatched",
        ]
