"""Ids and queries as keys: one key an id, one id a key, and nothing else."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from natsdisc.errors import InvalidNameError
from natsdisc.keys import MAX_KEY_BYTES, key_of, parse_key, prefix_of
from natsdisc.model import (
    MAX_INSTANCE_ID,
    EndpointInstanceId,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    endpoints,
    models,
)
from tests import strategies

LEGAL = re.compile(r"[-/_=.a-zA-Z0-9]+")
PLAIN = frozenset(string.ascii_letters + string.digits + "-_/")


def kind_of(id: InstanceId) -> Kind:
    return Kind.ENDPOINT if isinstance(id, EndpointInstanceId) else Kind.MODEL


def token(name: str) -> str:
    """The rule, spelled out once more."""
    return "".join(chr(byte) if chr(byte) in PLAIN else f"={byte:02X}" for byte in name.encode())


class TestWriting:
    @pytest.mark.parametrize(
        ("id", "key"),
        [
            (EndpointInstanceId("shop", "cart", "checkout", 0x2A), "shop.cart.checkout.2a"),
            (EndpointInstanceId("a.b", "c d", "e=f", 0), "a=2Eb.c=20d.e=3Df.0"),
            (EndpointInstanceId("a/b", "*", ">", MAX_INSTANCE_ID), "a/b.=2A.=3E.ffffffffffffffff"),
            (EndpointInstanceId("é", "\x00", "🦀", 1), "=C3=A9.=00.=F0=9F=A6=80.1"),
            (ModelCardInstanceId("ns", "c", "e", 1), "ns.c.e.1"),
            (ModelCardInstanceId("ns", "c", "e", 1, "lora.1"), "ns.c.e.1.lora=2E1"),
        ],
    )
    def test_known_keys(self, id: InstanceId, key: str) -> None:
        assert key_of(id) == key
        assert parse_key(kind_of(id), key) == id

    @given(id=strategies.ids)
    def test_a_key_is_legal_and_has_one_token_a_name(self, id: InstanceId) -> None:
        key = key_of(id)
        assert LEGAL.fullmatch(key)
        tokens = key.split(".")
        assert all(tokens)
        suffix = id.model_suffix if isinstance(id, ModelCardInstanceId) else None
        place = [token(id.namespace), token(id.component), token(id.endpoint), format(id.instance_id, "x")]
        assert tokens == (place if suffix is None else [*place, token(suffix)])

    @given(id=strategies.ids)
    def test_a_key_reads_back_as_its_id(self, id: InstanceId) -> None:
        assert parse_key(kind_of(id), key_of(id)) == id

    @given(one=strategies.model_ids, other=strategies.model_ids)
    @example(one=ModelCardInstanceId("A", "c", "e", 1), other=ModelCardInstanceId("=41", "c", "e", 1))
    @example(one=ModelCardInstanceId("a", "b.c", "e", 1), other=ModelCardInstanceId("a.b", "c", "e", 1))
    @example(one=ModelCardInstanceId("a", "b", "c", 1), other=ModelCardInstanceId("a", "b", "c", 1, "1"))
    def test_two_ids_never_share_a_key(self, one: ModelCardInstanceId, other: ModelCardInstanceId) -> None:
        assert (key_of(one) == key_of(other)) == (one == other)


class TestReading:
    @pytest.mark.parametrize(
        "number",
        [
            "0x10",
            "_1",
            "1_0",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1\n",
            "FF",
            "fF",
            "00ff",
            "00",
            "",
            "g",
            "10000000000000000",
            "00000000000000001",
            "1" * 17,
            "٣",
            "=31",
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("kind", Kind)
    def test_a_number_is_strict_hex(self, kind: Kind, number: str) -> None:
        assert parse_key(kind, f"ns.c.e.{number}") is None

    @pytest.mark.parametrize(
        ("number", "value"), [("0", 0), ("ff", 255), ("f" * 16, MAX_INSTANCE_ID), ("1" + "0" * 15, 2**60)]
    )
    def test_a_number_has_one_to_sixteen_digits(self, number: str, value: int) -> None:
        assert parse_key(Kind.ENDPOINT, f"ns.c.e.{number}") == EndpointInstanceId("ns", "c", "e", value)

    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "=41",
            "=2e",
            "=2D",
            "=zz",
            "=4",
            "=",
            "a=",
            "==",
            "=C3",
            "=FF",
            "=C0=80",
            "=ED=A0=80",
            "=F5=80=80=80",
            "a b",
            "é",
            "*",
            ">",
            "a\n",
            "a%20",
            "\ud800",
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("at", range(5))
    def test_a_token_is_what_its_name_is_written_as(self, at: int, bad: str) -> None:
        tokens = ["ns", "c", "e", "1", "lora"]
        tokens[at] = bad
        assert parse_key(Kind.MODEL, ".".join(tokens)) is None
        if at < 4:
            assert parse_key(Kind.ENDPOINT, ".".join(tokens[:4])) is None

    @pytest.mark.parametrize("key", ["", ".", "...", "....", "a", "a.b.c", "a.b.1", "a.b.c.1.d.e"], ids=repr)
    @pytest.mark.parametrize("kind", Kind)
    def test_a_key_has_four_tokens_or_five(self, kind: Kind, key: str) -> None:
        assert parse_key(kind, key) is None

    def test_only_a_card_has_a_suffix(self) -> None:
        assert parse_key(Kind.ENDPOINT, "ns.c.e.1.lora") is None
        assert parse_key(Kind.MODEL, "ns.c.e.1.lora") == ModelCardInstanceId("ns", "c", "e", 1, "lora")
        assert parse_key(Kind.MODEL, "ns.c.e.1") == ModelCardInstanceId("ns", "c", "e", 1)

    @given(
        kind=st.sampled_from(Kind),
        key=st.one_of(
            st.text(),
            st.from_regex(r"([=a-fA-F0-9_/-]{1,6}\.){3}[0-9a-fA-Fx_+]{1,17}(\.[=a-fA-F0-9]{1,4})?"),
        ),
    )
    def test_what_parses_is_what_would_be_written(self, kind: Kind, key: str) -> None:
        id = parse_key(kind, key)
        if id is not None:
            assert kind_of(id) is kind
            assert key_of(id) == key

    @given(
        id=strategies.ids,
        kind=st.sampled_from(Kind),
        at=st.integers(0, 40),
        drop=st.integers(0, 2),
        new=st.text(st.sampled_from(".=0149aAfFgG_+- \n\x00é"), max_size=2),
    )
    def test_a_damaged_key_parses_to_nothing_or_to_the_id_it_is(
        self, id: InstanceId, kind: Kind, at: int, drop: int, new: str
    ) -> None:
        key = key_of(id)
        damaged = key[:at] + new + key[at + drop :]
        read = parse_key(kind, damaged)
        assert read is None or key_of(read) == damaged


class TestPrefix:
    @pytest.mark.parametrize(
        ("names", "prefix"),
        [((), ""), (("a.b",), "a=2Eb"), (("a", "b c"), "a.b=20c"), (("a", "b", "c"), "a.b.c")],
    )
    def test_known_prefixes(self, names: tuple[str, ...], prefix: str) -> None:
        assert prefix_of(endpoints(*names)) == prefix_of(models(*names)) == prefix

    @given(data=st.data(), id=strategies.ids)
    def test_a_prefix_has_exactly_the_keys_of_its_query(self, data: st.DataObject, id: InstanceId) -> None:
        query = data.draw(strategies.queries_near(id) | strategies.queries())
        prefix = prefix_of(query)
        tokens = prefix.split(".") if prefix else []
        below = key_of(id).split(".")[: len(tokens)] == tokens
        assert (below and query.kind is kind_of(id)) == query.matches(id)

    def test_a_name_that_only_begins_alike_has_another_prefix(self) -> None:
        key = key_of(EndpointInstanceId("ns10", "c", "e", 1))
        assert not key.startswith(prefix_of(endpoints("ns1")) + ".")
        assert key.startswith(prefix_of(endpoints("ns10")) + ".")


class TestLength:
    def test_the_longest_key_is_written_and_read(self) -> None:
        id = EndpointInstanceId("n" * (MAX_KEY_BYTES - len(".c.e.1")), "c", "e", 1)
        assert len(key_of(id)) == MAX_KEY_BYTES
        assert parse_key(Kind.ENDPOINT, key_of(id)) == id

    @pytest.mark.parametrize(
        "id",
        [
            EndpointInstanceId("n" * (MAX_KEY_BYTES - len(".c.e.1") + 1), "c", "e", 1),
            EndpointInstanceId("ns", "." * (MAX_KEY_BYTES // 3), "e", 1),
            EndpointInstanceId("ns", "c", "字" * (MAX_KEY_BYTES // 9), MAX_INSTANCE_ID),
            ModelCardInstanceId("ns", "c", "e", 1, "s" * MAX_KEY_BYTES),
        ],
        ids=["plain", "escaped", "utf8", "suffix"],
    )
    def test_a_longer_one_is_refused(self, id: InstanceId) -> None:
        with pytest.raises(InvalidNameError, match="shorter names"):
            key_of(id)

    def test_a_longer_prefix_is_refused(self) -> None:
        with pytest.raises(InvalidNameError, match="shorter names"):
            prefix_of(endpoints("n" * (MAX_KEY_BYTES + 1)))

    def test_a_longer_one_parses_to_nothing(self) -> None:
        """It is a key that natsdisc would not have written, and could not write over."""
        assert parse_key(Kind.ENDPOINT, "n" * MAX_KEY_BYTES + ".c.e.1") is None
