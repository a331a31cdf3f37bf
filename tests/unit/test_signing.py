"""Signatures: each field that one covers is covered, and no secret is ever shown."""

from __future__ import annotations

import builtins
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsdisc.errors import InvalidValueError
from natsdisc.signing import Signature, Signer, Trust, UntrustedError, canonical

BUCKET, KEY, VALUE, OWNER = "prod_v1_instances", "shop.cart.checkout.1f", b'{"type":"Endpoint"}', "a1b2"


RANDOM = random.Random(1)  # the names of the tests are the same in every process


def new_seed(prefix: int = nkeys.PREFIX_BYTE_USER) -> bytes:
    seed: bytes = nkeys.encode_seed(RANDOM.randbytes(32), prefix)
    return seed


SEED = new_seed()
SIGNER = Signer(SEED)
TRUST = Trust({"shop": [SIGNER.public_key]})


def sign(signer: Signer = SIGNER, **changed: Any) -> Signature:
    fields: dict[str, Any] = {"owner": OWNER, "time": 1_000, "until": 2_000, **changed}
    return signer.sign(
        fields.pop("bucket", BUCKET), fields.pop("key", KEY), fields.pop("value", VALUE), **fields
    )


def test_a_signature_is_believed_for_what_was_signed() -> None:
    signature = sign()
    assert TRUST.verify(BUCKET, KEY, VALUE, str(signature)) == signature
    # Once more comes from memory.
    assert TRUST.verify(BUCKET, KEY, VALUE, str(signature)) == signature


@pytest.mark.parametrize(
    ("bucket", "key", "value"),
    [
        ("v1_instances", KEY, VALUE),
        (BUCKET, "shop.cart.checkout.1e", VALUE),
        (BUCKET, KEY, VALUE + b" "),
        (BUCKET, KEY, b""),
        # The same bytes in other fields.
        (BUCKET + KEY[0], KEY[1:], VALUE),
    ],
)
def test_another_bucket_key_or_value_is_refused(bucket: str, key: str, value: bytes) -> None:
    trust = Trust({"*": [SIGNER.public_key]})
    with pytest.raises(UntrustedError, match="does not match"):
        trust.verify(bucket, key, value, str(sign()))


@pytest.mark.parametrize("changed", [{"owner": "a1b3"}, {"time": 1_001}, {"until": 0}, {"until": 2_001}])
def test_another_owner_or_time_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(UntrustedError, match="does not match"):
        TRUST.verify(BUCKET, KEY, VALUE, str(sign()._replace(**changed)))


@given(st.integers(0, 10_000), st.characters(min_codepoint=1, max_codepoint=255))
@settings(max_examples=300, deadline=None)
def test_no_character_of_the_header_can_be_changed(at: int, character: str) -> None:
    header = str(sign())
    at %= len(header)
    changed = header[:at] + character + header[at + 1 :]
    if changed == header:
        return
    with pytest.raises(UntrustedError):
        TRUST.verify(BUCKET, KEY, VALUE, changed)


@given(st.text(max_size=300))
def test_any_header_can_be_looked_at(header: str) -> None:
    with pytest.raises(UntrustedError):
        TRUST.verify(BUCKET, KEY, VALUE, header)


_FIELDS = st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5), st.text(max_size=5))


@given(_FIELDS, _FIELDS)
def test_no_two_registrations_are_the_same_bytes(
    one: tuple[str, str, bytes, str], two: tuple[str, str, bytes, str]
) -> None:
    def of(fields: tuple[str, str, bytes, str]) -> bytes:
        bucket, key, value, owner = fields
        return canonical(bucket, key, value, owner=owner, time=1, until=2, public_key="U")

    assert (of(one) == of(two)) == (one == two)


def test_what_is_signed_is_fixed() -> None:
    """Readers of another version have to build the same bytes."""
    assert canonical("b", "k", b"v", owner="o", time=1, until=0, public_key="U").hex() == (
        b"natsdisc registration\x00\x01".hex()
        + "".join(
            (b"\0\0\0\0\0\0\0\x01" + field).hex() for field in (b"b", b"k", b"v", b"o", b"1", b"0", b"U")
        )
    )


def test_a_value_without_a_signature_is_not_believed() -> None:
    with pytest.raises(UntrustedError, match="no signature"):
        TRUST.verify(BUCKET, KEY, VALUE, None)


def test_a_key_is_trusted_for_its_namespaces_only() -> None:
    other = Signer(new_seed())
    trust = Trust({"shop": [SIGNER.public_key], "bank a.b": [other.public_key]})
    key = "bank=20a=2Eb.x.y.1"
    assert trust.verify(BUCKET, key, VALUE, str(sign(other, key=key))).public_key == other.public_key
    with pytest.raises(UntrustedError, match="not trusted for its namespace"):
        trust.verify(BUCKET, key, VALUE, str(sign(key=key)))
    with pytest.raises(UntrustedError, match="not trusted for its namespace"):
        trust.verify(BUCKET, KEY, VALUE, str(sign(other)))
    with pytest.raises(UntrustedError, match="not trusted"):
        trust.verify(BUCKET, "shop1.x.y.1", VALUE, str(sign(key="shop1.x.y.1")))
    assert (trust.names(BUCKET, KEY), trust.names(BUCKET, "shop1.x.y.1")) == (True, False)


@pytest.mark.parametrize("kind", ["event_channels", "event_sources"])
@pytest.mark.parametrize("prefix", ["", "prod_"])
def test_an_event_is_trusted_by_the_namespace_of_its_scope(kind: str, prefix: str) -> None:
    other, bucket = Signer(new_seed()), f"{prefix}v1_{kind}"
    trust = Trust({"shop": [SIGNER.public_key], "namespace": [other.public_key]})
    for scope in ("namespace.shop", "namespace.shop.component.cart"):
        key = f"{scope}.topic.kv.1f"
        assert trust.verify(bucket, key, VALUE, str(sign(bucket=bucket, key=key))).public_key
        # The key of a namespace that is called `namespace` is not the key of every event.
        with pytest.raises(UntrustedError, match="not trusted for its namespace"):
            trust.verify(bucket, key, VALUE, str(sign(other, bucket=bucket, key=key)))
        assert not trust.allows(bucket, key, other.public_key)
    key = "namespace.namespace.topic.kv.1f"
    assert trust.allows(bucket, key, other.public_key)
    assert not trust.allows(bucket, key, SIGNER.public_key)
    # A key without the word lies nowhere, and an endpoint may lie in a namespace of that name.
    assert not trust.names(bucket, "shop.cart.topic.1f")
    assert not trust.names(bucket, "namespace")
    assert trust.allows(BUCKET, "namespace.shop.x.1", other.public_key)


def test_two_keys_of_a_namespace_overlap_while_one_replaces_the_other() -> None:
    new = Signer(new_seed())
    during, afterwards = (
        Trust({"shop": [SIGNER.public_key, new.public_key]}),
        Trust({"shop": [new.public_key]}),
    )
    for signer in (SIGNER, new):
        during.verify(BUCKET, KEY, VALUE, str(sign(signer)))
    afterwards.verify(BUCKET, KEY, VALUE, str(sign(new)))
    with pytest.raises(UntrustedError, match="not trusted"):
        afterwards.verify(BUCKET, KEY, VALUE, str(sign()))


def test_a_star_is_every_namespace_beside_those_that_are_named() -> None:
    operator = Signer(new_seed())
    trust = Trust({"*": [operator.public_key], "shop": [SIGNER.public_key]})
    for signer in (SIGNER, operator):
        trust.verify(BUCKET, KEY, VALUE, str(sign(signer)))


def _from_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "S.nk"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "secret",
    [
        lambda path: SEED,
        lambda path: SEED.decode(),
        lambda path: SEED + b"\n",
        lambda path: _from_file(path, SEED + b"\n"),
        lambda path: str(_from_file(path, SEED)),
        lambda path: _from_file(path, b"-----BEGIN USER NKEY SEED-----\r\n" + SEED + b"\r\n------END"),
        lambda path: (b"-----BEGIN USER NKEY SEED-----\n" + SEED + b"\n------END").decode(),
        lambda path: lambda data: (SIGNER.public_key, nkeys.from_seed(SEED).sign(data)),
        lambda path: lambda data: (SIGNER.public_key.encode(), bytearray(nkeys.from_seed(SEED).sign(data))),
    ],
)
def test_a_signer_is_a_seed_a_file_or_a_function(secret: Callable[[Path], Any], tmp_path: Path) -> None:
    signer = Signer(secret(tmp_path))
    assert signer.public_key == SIGNER.public_key
    TRUST.verify(BUCKET, KEY, VALUE, str(sign(signer)))
    assert SEED.decode() not in repr(signer) + repr(vars(signer)["public_key"])


def _wrong_function(data: bytes) -> tuple[str, bytes]:
    return SIGNER.public_key, nkeys.from_seed(SEED).sign(data + b".")


def _failing_function(data: bytes) -> tuple[str, bytes]:
    raise RuntimeError(SEED.decode())


_DAMAGED = SEED[:-4] + (b"AAAA" if SEED[-4:] != b"AAAA" else b"BBBB")


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (_DAMAGED, "damaged"),
        (_DAMAGED.decode(), "damaged"),
        (SEED[:-1], "no seed"),
        (SEED[:-1].decode(), "cannot read"),
        (SEED.decode().lower(), "cannot read"),
        (new_seed(nkeys.PREFIX_BYTE_ACCOUNT), "not that of a user"),
        (b"", "no seed"),
        ("", "cannot read"),
        ("/nowhere/cart.nk", "/nowhere/cart.nk: No such file"),
        (Path("/nowhere/cart.nk"), "/nowhere/cart.nk: No such file"),
        (Path("/proc/self/cmdline"), "holds no seed"),
        ("a\0b", "not a path"),
        (7, "must be the seed"),
        (None, "must be the seed"),
        (_wrong_function, "no Ed25519 signature"),
        (_failing_function, "failed with RuntimeError"),
        (lambda data: None, "failed with|must return"),
        (lambda data: (SIGNER.public_key, "text"), "must return"),
        (lambda data: ("UAAA", b"s" * 64), "must be a public user NKey"),
        (lambda data: (SEED.decode(), b"s" * 64), "not a secret"),
    ],
)
def test_a_signer_that_cannot_sign_is_told_without_its_secret(secret: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        Signer(secret)
    for text in (SEED.decode(), SEED[:-1].decode(), _DAMAGED.decode()):
        assert text[:20] not in str(caught.value)


def test_a_function_that_changes_its_key_is_refused() -> None:
    pairs = [nkeys.from_seed(SEED), nkeys.from_seed(new_seed())]

    def function(data: bytes) -> tuple[str, bytes]:
        pair = pairs.pop(0)
        return pair.public_key.decode(), pair.sign(data)

    signer = Signer(function)
    with pytest.raises(InvalidValueError, match="make a new Discovery"):
        sign(signer)


def test_the_owner_must_fit_into_the_header() -> None:
    for owner in ("", "a b", "a\r\nb", "x" * 65, "ä"):
        with pytest.raises(InvalidValueError, match="owner"):
            sign(owner=owner)


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        ({}, "names no key"),
        ({"shop": []}, "names no key"),
        (None, "must map namespaces"),
        ([SIGNER.public_key], "must map namespaces"),
        ({"shop": SIGNER.public_key}, "must be a list"),
        ({"shop": 7}, "must be a list"),
        ({"": [SIGNER.public_key]}, "must map namespaces"),
        ({7: [SIGNER.public_key]}, "must map namespaces"),
        ({"shop": ["U"]}, "public user NKey"),
        ({"shop": [7]}, "public user NKey"),
        ({"shop": [SIGNER.public_key.lower()]}, "public user NKey"),
        ({"shop": [SIGNER.public_key[:-1] + ("A" if SIGNER.public_key[-1] != "A" else "B")]}, "checksum"),
        ({"shop": [SEED.decode()]}, "not a secret"),
        ({"shop": [SEED]}, "not a secret"),
    ],
)
def test_trust_that_makes_no_sense_is_told(trusted: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        Trust(trusted)
    assert SEED.decode()[:20] not in str(caught.value)


def test_times_only_grow() -> None:
    signer = Signer(SEED)
    assert signer.next_time(5.0) == 5_000
    assert signer.next_time(5.0) == 5_001
    assert signer.next_time(1.0) == 5_002
    assert signer.next_time(1.0, after=7_000) == 7_001
    assert signer.next_time(9.0, after=7_000) == 9_000


def test_without_nkeys_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] in ("nkeys", "nacl"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name.partition(".")[0] in ("nkeys", "nacl")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    for make in (lambda: Signer(SEED), lambda: Trust({"shop": [SIGNER.public_key]})):
        with pytest.raises(InvalidValueError, match=r"natsdisc\[nkeys\]"):
            make()
