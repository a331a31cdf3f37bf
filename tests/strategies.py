"""What hypothesis draws: everything natsdisc can be given, from the ordinary to the hostile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from hypothesis import strategies as st

from natsdisc import keys, wire
from natsdisc.model import (
    MAX_INSTANCE_ID,
    EndpointInstance,
    EndpointInstanceId,
    EndpointSpec,
    Instance,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    ModelInstance,
    ModelSpec,
    Query,
    RemovalReason,
    Spec,
    Status,
    Transport,
)

# What means something in a subject, in a key, in the seed's path, in a URL or to a terminal.
_TELLING = st.sampled_from(list(".*> \t\r\n=/%+_-\\\"'{}$:A4a1\x00\x1b\x7f\x85\xa0\u202e\u2028é字🦀"))
_ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
# Names that a comparison of strings, and not of tokens, would take for each other.
_ALIKE = st.sampled_from(
    ["ns", "ns1", "ns10", "ns1.", "ns1.a", "ns1/a", "a", "A", "=41", "a.b", "b", "*", ">"]
)

texts = st.text(_ANY_CHARACTER, max_size=12)
"""Any text that has a UTF-8 form."""

names = st.one_of(
    _ALIKE, st.text(_TELLING, min_size=1, max_size=8), st.text(_ANY_CHARACTER, min_size=1, max_size=12)
)
"""Every name is legal that is not empty and has a UTF-8 form."""

instance_ids = st.one_of(
    st.integers(0, MAX_INSTANCE_ID), st.sampled_from([0, 1, 9, 10, 15, 16, 255, 2**63, MAX_INSTANCE_ID])
)
"""All of a u64."""

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""JSON that comes back from bytes as it went in."""

metadata = st.dictionaries(texts, json_values, max_size=3)

transports = st.one_of(
    st.builds(Transport.nats, texts),
    st.builds(Transport.http, texts),
    st.builds(Transport.tcp, texts),
    st.builds(Transport, names, json_values),
)
"""The kinds we know, and kinds of the future."""

suffixes = st.none() | names

endpoint_ids = st.builds(EndpointInstanceId, names, names, names, instance_ids)
model_ids = st.builds(ModelCardInstanceId, names, names, names, instance_ids, suffixes)
ids: st.SearchStrategy[InstanceId] = endpoint_ids | model_ids

_ports = st.integers(1, 65535)
good_transports = st.one_of(
    st.builds(lambda number: Transport.nats(f"shop.cart.{number}"), _ports),
    st.builds(lambda port: Transport.http(f"http://host:{port}/a"), _ports),
    st.builds(lambda port: Transport.tcp(f"[::1]:{port}"), _ports),
    st.builds(lambda port: Transport("quic", {"port": port}), _ports),
)
"""Transports with addresses that an endpoint may be registered with."""

endpoint_specs = st.builds(EndpointSpec, names, names, names, transport=good_transports, metadata=metadata)
model_specs = st.builds(ModelSpec, names, names, names, card=json_values, model_suffix=suffixes)
specs: st.SearchStrategy[Spec] = endpoint_specs | model_specs

endpoint_instances = st.builds(
    EndpointInstance,
    names,
    names,
    names,
    instance_ids,
    transport=transports,
    metadata=metadata,
    status=st.sampled_from([Status.SERVING, *Status]),
)
model_instances = st.builds(
    ModelInstance, names, names, names, instance_ids, card=json_values, model_suffix=suffixes
)
instances: st.SearchStrategy[Instance] = endpoint_instances | model_instances


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """A query of any kind and depth."""
    depth = draw(st.integers(0, 3))
    return Query(draw(st.sampled_from([Kind.ENDPOINT, Kind.MODEL])), *(draw(names) for _ in range(depth)))


@st.composite
def queries_near(draw: st.DrawFn, id: InstanceId) -> Query:
    """A query that has `id`, or has it but for one name or the kind."""
    place = [id.namespace, id.component, id.endpoint][: draw(st.integers(0, 3))]
    changes: bool = draw(st.booleans())
    if place and changes:
        place[draw(st.integers(0, len(place) - 1))] = draw(names)
    kind = Kind.ENDPOINT if isinstance(id, EndpointInstanceId) else Kind.MODEL
    return Query(draw(st.sampled_from([kind, kind, Kind.ENDPOINT, Kind.MODEL])), *place)


# What happens in a bucket of endpoints. The keys and values are real ones.


@dataclass(frozen=True, slots=True)
class Put:
    """`key` is written; with `instance` None the value is rubbish."""

    key: str
    value: bytes
    instance: EndpointInstance | None


@dataclass(frozen=True, slots=True)
class Delete:
    """`key` is removed."""

    key: str
    reason: RemovalReason


@dataclass(frozen=True, slots=True)
class Forge:
    """Somebody else's lease wrote to `key`."""

    key: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes."""

    seconds: float


Message: TypeAlias = Put | Delete | Forge
Log: TypeAlias = list[Message | Wait]


def endpoint(number: int, address: str = "a") -> EndpointInstance:
    """The same component's endpoint `number`."""
    return EndpointInstance("shop", "cart", "checkout", number, transport=Transport.tcp(address))


def put(number: int, address: str = "a", *, blanks: int = 0) -> Put:
    """A live value; with blanks around it the same one in other bytes."""
    instance = endpoint(number, address)
    return Put(keys.key_of(instance.id), b" " * blanks + wire.dumps(instance), instance)


def rubbish(number: int, value: bytes = b"{") -> Put:
    """A value that does not decode."""
    return Put(keys.key_of(endpoint(number).id), value, None)


_numbers = st.sampled_from([1, 1, 1, 2, 3])
_puts = st.builds(put, _numbers, st.sampled_from("aab"), blanks=st.sampled_from([0, 0, 0, 1]))
_deletes = st.builds(
    Delete,
    _numbers.map(lambda number: keys.key_of(endpoint(number).id)),
    st.sampled_from([RemovalReason.UNREGISTERED, RemovalReason.EXPIRED, RemovalReason.EXPIRED]),
)
_rubbish = st.builds(rubbish, _numbers, st.sampled_from([b"", b"{", b"[]", b"\xff", wire.dumps(endpoint(4))]))
_forgeries = st.builds(Forge, _numbers.map(lambda number: keys.key_of(endpoint(number).id)))
# Parts of a second that floats hold exactly: deadlines are met to the point.
_waits = st.builds(Wait, st.sampled_from([0.25, 0.5, 1.0, 2.0]))


def _logs(steps: st.SearchStrategy[Message | Wait]) -> st.SearchStrategy[Log]:
    # Left alone, lists are short: much of what goes wrong takes more steps.
    return st.lists(steps, max_size=8) | st.lists(steps, min_size=10, max_size=24)


logs = _logs(_puts | _deletes | _waits | _rubbish | _forgeries)
"""What happens to three keys of a bucket, in order; some of it lasts longer than a grace of a second."""

honest_logs = _logs(_puts | _deletes | _waits | _rubbish)
"""The same without forgeries."""
