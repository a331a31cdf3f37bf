"""The JSON of an instance cannot be changed in place, and otherwise behaves like plain JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given

from natsdisc import wire
from natsdisc.errors import InvalidValueError
from natsdisc.frozen import FrozenDict, FrozenList, freeze
from natsdisc.model import EndpointInstance, EndpointSpec, Instance, ModelInstance, Transport
from tests import strategies

PLAIN: dict[str, Any] = {"zone": "a", "deep": {"list": [1, {"b": 2}, [3]]}, "list": [], "none": None}


def instance(value: Any = None) -> EndpointInstance:
    metadata = copy.deepcopy(PLAIN) if value is None else value
    return EndpointInstance("ns", "c", "e", 1, transport=Transport.tcp("a"), metadata=metadata)


CHANGES: list[Callable[[Any], object]] = [
    lambda m: m.update(a=1),
    lambda m: m.__setitem__("zone", "b"),
    lambda m: m.__delitem__("zone"),
    lambda m: m.__ior__({"a": 1}),
    lambda m: m.clear(),
    lambda m: m.pop("zone"),
    lambda m: m.popitem(),
    lambda m: m.setdefault("a", 1),
    lambda m: m["deep"].update(a=1),
    lambda m: m["deep"]["list"].append(1),
    lambda m: m["deep"]["list"].__setitem__(0, 1),
    lambda m: m["deep"]["list"].__delitem__(0),
    lambda m: m["deep"]["list"].__iadd__([1]),
    lambda m: m["deep"]["list"].__imul__(2),
    lambda m: m["deep"]["list"].extend([1]),
    lambda m: m["deep"]["list"].insert(0, 1),
    lambda m: m["deep"]["list"].pop(),
    lambda m: m["deep"]["list"].remove(1),
    lambda m: m["deep"]["list"].reverse(),
    lambda m: m["deep"]["list"].sort(),
    lambda m: m["deep"]["list"].clear(),
    lambda m: m["deep"]["list"][1].update(b=3),
    lambda m: m["deep"]["list"][2].append(3),
    lambda m: dict(m)["deep"].update(a=1),
    lambda m: m.copy()["deep"].update(a=1),
]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_in_it_can_be_changed(change: Callable[[Any], object]) -> None:
    made = instance()
    ways = (made, wire.loads(wire.dumps(made)), made_of_spec(), pickle.loads(pickle.dumps(made)))
    for one in (*ways, copy.deepcopy(made), dataclasses.replace(made, transport=Transport.tcp("b"))):
        assert isinstance(one, EndpointInstance)
        with pytest.raises(TypeError, match="update"):
            change(one.metadata)
        assert one.metadata == PLAIN


def made_of_spec() -> EndpointInstance:
    spec = EndpointSpec("ns", "c", "e", transport=Transport.tcp("a:1"), metadata=copy.deepcopy(PLAIN))
    return spec.with_instance_id(1)


@pytest.mark.parametrize("change", CHANGES)
def test_cards_addresses_and_extra_fields_are_frozen_too(change: Callable[[Any], object]) -> None:
    card = wire.loads(wire.dumps(ModelInstance("ns", "c", "e", 1, card=PLAIN, extra={"more": PLAIN})))
    assert isinstance(card, ModelInstance)
    moved = wire.loads(wire.dumps(dataclasses.replace(instance(), transport=Transport("new", PLAIN))))
    assert isinstance(moved, EndpointInstance)
    for value in (card.card, card.extra["more"], moved.transport.address):
        with pytest.raises(TypeError, match="update"):
            change(value)


def test_what_the_caller_gave_is_not_shared() -> None:
    given = copy.deepcopy(PLAIN)
    made = instance(given)
    given["deep"]["list"].append("late")
    assert made.metadata == PLAIN


def test_copies_can_be_changed() -> None:
    frozen: Any = instance().metadata
    for one in (dict(frozen), frozen.copy(), copy.copy(frozen), {**frozen}):
        assert type(one) is dict
        assert one == PLAIN
    deep = copy.deepcopy(frozen)
    assert isinstance(deep, dict)
    deep["deep"]["list"][1]["b"] = 3
    assert deep != PLAIN
    assert frozen == PLAIN


def test_it_is_a_dict_for_all_who_read() -> None:
    frozen = instance().metadata
    assert isinstance(frozen, dict)
    assert frozen == PLAIN
    assert json.dumps(frozen) == json.dumps(PLAIN)
    assert orjson.dumps(frozen) == orjson.dumps(PLAIN)
    assert pickle.loads(pickle.dumps(frozen)) == PLAIN
    assert repr(frozen) == repr(PLAIN)
    assert dataclasses.asdict(instance())["metadata"] == PLAIN
    match frozen:
        case {"zone": zone, "deep": {"list": [first, *_]}}:
            assert (zone, first) == ("a", 1)
        case _:
            raise AssertionError


@given(made=strategies.instances)
def test_instances_copy_and_pickle(made: Instance) -> None:
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


def test_what_is_too_deep_is_left_to_wire_to_refuse() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidValueError):
        wire.dumps(instance({"deep": deep}))
    cycle: dict[str, Any] = {}
    cycle["cycle"] = cycle
    with pytest.raises(InvalidValueError):
        wire.dumps(instance(cycle))


def test_freezing_again_costs_nothing() -> None:
    frozen = freeze(PLAIN)
    assert freeze(frozen) is frozen
    assert type(frozen) is FrozenDict
    assert type(frozen["list"]) is FrozenList
