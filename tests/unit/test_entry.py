"""An instance in a bucket: the key is the identity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import keys, wire
from natsdisc.entry import BUCKETS, bucket_of, decode
from natsdisc.errors import InvalidValueError
from natsdisc.model import EndpointInstance, Instance, Kind, ModelInstance, Transport
from tests import strategies

ENDPOINT = EndpointInstance("ns", "c", "e", 1, transport=Transport.tcp("a"))
MODEL = ModelInstance("ns", "c", "e", 1, card={}, model_suffix="lora")


def kind_of(instance: Instance) -> Kind:
    return Kind.ENDPOINT if isinstance(instance, EndpointInstance) else Kind.MODEL


def test_the_buckets_are_the_seeds() -> None:
    assert bucket_of(ENDPOINT.id) == BUCKETS[Kind.ENDPOINT] == "v1_instances"
    assert bucket_of(MODEL.id) == BUCKETS[Kind.MODEL] == "v1_mdc"


@given(instance=strategies.instances)
def test_an_instance_reads_back_under_its_own_key(instance: Instance) -> None:
    assert decode(kind_of(instance), keys.key_of(instance.id), wire.dumps(instance)) == instance


@pytest.mark.parametrize("field", ["namespace", "component", "endpoint", "instance_id", "model_suffix"])
def test_a_value_must_name_its_key(field: str) -> None:
    fields: dict[str, Any] = {
        "namespace": "ns",
        "component": "c",
        "endpoint": "e",
        "instance_id": 1,
        "model_suffix": "lora",
        field: 2 if field == "instance_id" else "other",
    }
    with pytest.raises(InvalidValueError, match="another instance"):
        decode(Kind.MODEL, keys.key_of(MODEL.id), wire.dumps(ModelInstance(**fields, card={})))


def test_an_adapter_is_not_its_model() -> None:
    bare = ModelInstance("ns", "c", "e", 1, card={})
    with pytest.raises(InvalidValueError, match="another instance"):
        decode(Kind.MODEL, keys.key_of(bare.id), wire.dumps(MODEL))
    with pytest.raises(InvalidValueError, match="another instance"):
        decode(Kind.MODEL, keys.key_of(MODEL.id), wire.dumps(bare))


def test_a_value_of_the_other_kind_is_refused() -> None:
    card = ModelInstance("ns", "c", "e", 1, card={})
    assert keys.key_of(card.id) == keys.key_of(ENDPOINT.id)
    with pytest.raises(InvalidValueError):
        decode(Kind.ENDPOINT, keys.key_of(ENDPOINT.id), wire.dumps(card))
    with pytest.raises(InvalidValueError):
        decode(Kind.MODEL, keys.key_of(card.id), wire.dumps(ENDPOINT))


@pytest.mark.parametrize("key", ["", "ns.c.e", "ns.c.e.0x1", "ns.c.e.01", "ns.c.e.1.lora", "=6Es.c.e.1"])
def test_a_malformed_key_is_refused_whatever_lies_there(key: str) -> None:
    with pytest.raises(InvalidValueError, match="key"):
        decode(Kind.ENDPOINT, key, wire.dumps(ENDPOINT))


@given(key=st.text() | strategies.ids.map(keys.key_of), value=st.binary(), kind=st.sampled_from(Kind))
def test_no_entry_raises_anything_else(key: str, value: bytes, kind: Kind) -> None:
    with pytest.raises(InvalidValueError):
        decode(kind, key, value)


@given(one=strategies.instances, other=strategies.instances)
def test_nobody_speaks_for_another(one: Instance, other: Instance) -> None:
    key, value = keys.key_of(one.id), wire.dumps(other)
    if one.id == other.id:
        assert decode(kind_of(one), key, value) == other
    else:
        with pytest.raises(InvalidValueError):
            decode(kind_of(one), key, value)
