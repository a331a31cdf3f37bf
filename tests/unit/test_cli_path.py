"""Places as text: what is printed reads back as the same, and other texts are refused with a reason."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import EndpointInstanceId, ModelCardInstanceId
from natsdisc.cli.path import joined, parse_id, parts_of, path_of
from natsdisc.cli.place import place_of
from natsdisc.model import InstanceId, Kind

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
nasty = st.text("/%-*?[ .~\\\n\u202e\u00e4\U0001f600%2F", min_size=1, max_size=6)
name = names | nasty
ids = st.integers(0, 2**64 - 1)
endpoint_ids = st.builds(EndpointInstanceId, name, name, name, ids)
model_ids = st.builds(ModelCardInstanceId, name, name, name, ids, st.none() | name)


@given(endpoint_ids | model_ids)
def test_a_path_reads_back_as_its_id(id: InstanceId) -> None:
    kind = Kind.ENDPOINT if isinstance(id, EndpointInstanceId) else Kind.MODEL
    path = path_of(id)
    assert path.isprintable()
    assert not path.startswith("-")
    assert not set(path) & set(" *?[")
    place = place_of(kind, [path])
    assert place.holds(id)
    assert place.path == path
    assert place.query.names == (id.namespace, id.component, id.endpoint)
    # Names as words mean the same.
    assert place_of(kind, path.split("/")) == place


@given(st.lists(name, min_size=1, max_size=3), st.lists(name, min_size=1, max_size=3))
def test_different_names_have_different_paths(one: list[str], other: list[str]) -> None:
    assert (joined(one) == joined(other)) is (one == other)


def test_usual_names_stand_as_they_are() -> None:
    assert path_of(EndpointInstanceId("shop", "cart", "check-out_1.2", 31)) == "shop/cart/check-out_1.2/1f"
    assert path_of(EndpointInstanceId("größe", "日本", "x:y", 0)) == "größe/日本/x:y/0"
    assert path_of(EndpointInstanceId("-a", "a/b", "50%", 0)) == "%2Da/a%2Fb/50%25/0"


def test_what_people_write() -> None:
    assert parts_of(["shop/"]) == ("shop",)
    assert parts_of(["shop/cart", "pay"]) == ("shop", "cart", "pay")
    assert parse_id("0x1F") == parse_id("1f") == parse_id("000000000000000000001f") == 31
    assert place_of(Kind.ENDPOINT, ["a", "b", "c", "FF"]).path == "a/b/c/ff"


@pytest.mark.parametrize("text", ["%", "a%2", "%zz", "%ff", "%C3"])
def test_bad_escapes_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"%25|UTF-8"):
        parts_of([text])


@pytest.mark.parametrize("text", ["", "-1", "1g", "1_0", "٣", "1" * 17, "0x", " 1"])
def test_bad_ids_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="hexadecimal"):
        parse_id(text)
