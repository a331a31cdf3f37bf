"""What is discovered: frozen values that are checked when they are made, and trusted afterwards.

Two instances are the same instance when their ids are equal. An id may come back after it was removed.
JSON values (metadata, cards, extra) take part in equality but not in the hash, so that instances fit into
sets. They cannot be changed in place: their dicts and lists are those of `natsdisc.frozen`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from .addresses import check_address
from .errors import InvalidIdError, InvalidNameError, InvalidQueryError, InvalidValueError
from .frozen import EMPTY, FrozenDict, FrozenOnRead, freeze, frozen_mapping

__all__ = [
    "Added",
    "EndpointInstance",
    "EndpointInstanceId",
    "EndpointQuery",
    "EndpointSpec",
    "Event",
    "EventChannelInstance",
    "EventChannelInstanceId",
    "EventChannelQuery",
    "EventChannelSpec",
    "EventSourceInstance",
    "EventSourceInstanceId",
    "EventSourceQuery",
    "EventSourceSpec",
    "Instance",
    "InstanceId",
    "Kind",
    "ModelCardInstanceId",
    "ModelInstance",
    "ModelQuery",
    "ModelSpec",
    "Query",
    "RemovalReason",
    "Removed",
    "Scope",
    "Spec",
    "Status",
    "Transport",
    "endpoints",
    "event_channels",
    "event_sources",
    "models",
]

MAX_INSTANCE_ID = 2**64 - 1
# The largest whole number that JavaScript, and any reader that keeps JSON numbers as doubles, holds exactly.
MAX_SAFE_INSTANCE_ID = 2**53 - 1


def new_instance_id() -> int:
    """Return a random instance id that is not 0 and fits 53 bits, so that JavaScript can hold it."""
    return secrets.randbelow(MAX_SAFE_INSTANCE_ID) + 1


class Kind(StrEnum):
    """What a bucket holds."""

    ENDPOINT = "endpoint"
    MODEL = "model"
    EVENT_CHANNEL = "event_channel"
    EVENT_SOURCE = "event_source"


class Status(StrEnum):
    """What an endpoint says, or a check or an operator says of it, about taking work."""

    SERVING = "serving"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"
    DISABLED = "disabled"


class RemovalReason(StrEnum):
    """Why an instance is gone: its owner left, its lease ran out, or a snapshot did not have it.

    UNMATCHED means that it is still there, but the `where` function of this watch or view no longer takes it.
    """

    UNREGISTERED = "unregistered"
    EXPIRED = "expired"
    MISSING = "missing"
    UNMATCHED = "unmatched"


def check_name(what: str, name: object) -> None:
    """Raise InvalidNameError unless `name` is non-empty text that has a UTF-8 form."""
    if not isinstance(name, str):
        raise InvalidNameError(f"{what} must be a str, not {type(name).__name__}: {name!r}")
    if not name:
        raise InvalidNameError(f"{what} must not be empty")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidNameError(f"{what} has no UTF-8 form (a lone surrogate): {name!r}") from None


def check_instance_id(instance_id: object) -> None:
    """Raise InvalidIdError unless `instance_id` is an int in the range of a u64."""
    if isinstance(instance_id, bool) or not isinstance(instance_id, int):
        raise InvalidIdError(f"instance_id must be an int, not {type(instance_id).__name__}: {instance_id!r}")
    if not 0 <= instance_id <= MAX_INSTANCE_ID:
        raise InvalidIdError(f"instance_id must fit an unsigned 64-bit integer: {instance_id}")


def _check_place(namespace: object, component: object, endpoint: object) -> None:
    check_name("namespace", namespace)
    check_name("component", component)
    check_name("endpoint", endpoint)


# The fields that natsdisc writes itself: none of them can be an extra one.
ENDPOINT_FIELDS = frozenset(
    ("type", "component", "endpoint", "namespace", "instance_id", "transport", "metadata", "status")
)
MODEL_FIELDS = frozenset(
    ("type", "namespace", "component", "endpoint", "instance_id", "card_json", "model_suffix")
)


def _freeze_mapping(value: object, what: str) -> None:
    """Replace the mapping in the field `what` of `value` by one that cannot be changed."""
    mapping = getattr(value, what)
    if not isinstance(mapping, Mapping):
        raise InvalidValueError(f"{what} must be a mapping, not {type(mapping).__name__}")
    object.__setattr__(value, what, frozen_mapping(mapping))


def _freeze_extra(value: EndpointSpec | EndpointInstance | ModelSpec | ModelInstance) -> None:
    _freeze_mapping(value, "extra")
    if value.extra:
        known = ENDPOINT_FIELDS if isinstance(value, (EndpointSpec, EndpointInstance)) else MODEL_FIELDS
        for name in value.extra:
            if (
                name == "status"
                and isinstance(value, EndpointInstance)
                and is_foreign_status(value.extra[name])
            ):
                continue
            if not isinstance(name, str) or name in known:
                raise InvalidValueError(f"extra cannot hold a field {name!r}: use a name of your own")


_STATUSES = {str(status): status for status in Status}


def read_status(raw: object) -> Status:
    """Return what `raw`, the field `status` of a value, means.

    A text that this version does not know is UNHEALTHY: the newer version that wrote it says that something
    is not as usual. Anything but a text is another system's field and no status: SERVING.
    """
    if isinstance(raw, str):
        return _STATUSES.get(raw, Status.UNHEALTHY)
    return Status.SERVING


def is_foreign_status(raw: object) -> bool:
    """Return whether the field `status` of a value must be kept in `extra`, because it names no Status."""
    return not isinstance(raw, str) or raw not in _STATUSES


def _check_status(instance: EndpointInstance) -> None:
    """Make the status of `instance` a Status, and drop a foreign one from `extra` that it replaces."""
    status: object = instance.status
    if not isinstance(status, str) or status not in _STATUSES:
        raise InvalidValueError(
            f"status must be one of {', '.join(_STATUSES)}, not {status!r:.80}: natsdisc.Status has them"
        )
    object.__setattr__(instance, "status", _STATUSES[status])
    extra = instance.extra
    foreign = isinstance(extra, Mapping) and "status" in extra and is_foreign_status(extra["status"])
    if foreign and read_status(extra["status"]) is not instance.status:
        extra = {name: value for name, value in extra.items() if name != "status"}
        object.__setattr__(instance, "extra", extra)


def _check_transport(transport: object) -> None:
    if not isinstance(transport, Transport):
        raise InvalidValueError(f"transport must be a Transport, not {type(transport).__name__}")


@dataclass(frozen=True, slots=True)
class Transport:
    """How to reach an endpoint: a kind (`nats_tcp`, `http`, `tcp`, or any other) and its address.

    The address of a kind this library does not know may be any JSON value and is kept as it is.
    """

    kind: str
    address: Any = field(hash=False)

    def __post_init__(self) -> None:
        check_name("transport kind", self.kind)
        if isinstance(self.address, str):
            try:
                self.address.encode()
            except UnicodeEncodeError:
                raise InvalidValueError(f"transport address has no UTF-8 form: {self.address!r}") from None
        else:
            object.__setattr__(self, "address", freeze(self.address))

    @classmethod
    def nats(cls, address: str) -> Transport:
        """A NATS subject."""
        return cls("nats_tcp", address)

    @classmethod
    def http(cls, address: str) -> Transport:
        """An HTTP URL."""
        return cls("http", address)

    @classmethod
    def tcp(cls, address: str) -> Transport:
        """A `host:port`."""
        return cls("tcp", address)


@dataclass(frozen=True, slots=True, order=True)
class EndpointInstanceId:
    """Who an endpoint instance is; `str()` is the path the seed uses."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.component}/{self.endpoint}/{self.instance_id:x}"


@dataclass(frozen=True, slots=True)
class ModelCardInstanceId:
    """Who a model card is; a LoRA adapter has a `model_suffix`."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    model_suffix: str | None = None

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        _fold_empty_suffix(self)

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.component}/{self.endpoint}/{self.instance_id:x}"
        return f"{path}/{self.model_suffix}" if self.model_suffix else path

    def __lt__(self, other: ModelCardInstanceId) -> bool:
        if not isinstance(other, ModelCardInstanceId):
            return NotImplemented
        return self._sort_key() < other._sort_key()

    def _sort_key(self) -> tuple[str, str, str, int, str]:
        return (self.namespace, self.component, self.endpoint, self.instance_id, self.model_suffix or "")


def _fold_empty_suffix(value: ModelCardInstanceId | ModelSpec | ModelInstance) -> None:
    """The seed treats an empty suffix as none."""
    if value.model_suffix == "":
        object.__setattr__(value, "model_suffix", None)
    elif value.model_suffix is not None:
        check_name("model_suffix", value.model_suffix)


@dataclass(frozen=True, slots=True)
class Scope:
    """What an event channel or source belongs to: a namespace, a component or an endpoint.

    Make one with `Scope.namespace`, `Scope.component` or `Scope.endpoint`. Scopes match exactly: that of a
    namespace does not hold those of its components. `names` has the names, outermost first.

    Example: `Scope.component("shop", "cart")`
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.names, tuple) or not 1 <= len(self.names) <= 3:
            raise InvalidNameError(f"a Scope has one to three names, not {self.names!r:.80}")
        for what, name in zip(_LEVELS, self.names, strict=False):
            check_name(what, name)

    @classmethod
    def namespace(cls, namespace: str) -> Scope:
        """Return the scope of a namespace alone. Raises InvalidNameError."""
        return cls((namespace,))

    @classmethod
    def component(cls, namespace: str, component: str) -> Scope:
        """Return the scope of a component. Raises InvalidNameError."""
        return cls((namespace, component))

    @classmethod
    def endpoint(cls, namespace: str, component: str, endpoint: str) -> Scope:
        """Return the scope of an endpoint. Raises InvalidNameError."""
        return cls((namespace, component, endpoint))

    @property
    def padded(self) -> tuple[str, str, str]:
        """The namespace, component and endpoint; empty text where there is none."""
        namespace, component, endpoint = (*self.names, "", "")[:3]
        return namespace, component, endpoint

    @property
    def path(self) -> tuple[str, ...]:
        """The segments of Dynamo's path, such as `("namespace", "shop", "component", "cart")`."""
        return tuple(part for pair in zip(_LEVELS, self.names, strict=False) for part in pair)

    def __str__(self) -> str:
        return "/".join(map(_segment, self.path))


_LEVELS = ("namespace", "component", "endpoint")


def _segment(name: str) -> str:
    """Return `name` as a segment of Dynamo's paths, percent-encoded."""
    plain = name.replace("-", "").replace("_", "")
    if plain.isascii() and plain.isalnum():
        return name
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in b"-_" else f"%{byte:02X}"
        for byte in name.encode()
    )


def _check_scope(scope: object, topic: object) -> None:
    if not isinstance(scope, Scope):
        raise InvalidValueError(f"scope must be a Scope, such as Scope.namespace('shop'), not {scope!r:.80}")
    check_name("topic", topic)


@dataclass(frozen=True, slots=True)
class _EventId:
    """The id of an event channel or source; `str()` is Dynamo's path."""

    scope: Scope
    topic: str
    instance_id: int

    def __post_init__(self) -> None:
        _check_scope(self.scope, self.topic)
        check_instance_id(self.instance_id)

    @property
    def namespace(self) -> str:
        """The namespace of the scope."""
        return self.scope.padded[0]

    @property
    def component(self) -> str:
        """The component of the scope; empty text when it is a namespace."""
        return self.scope.padded[1]

    @property
    def endpoint(self) -> str:
        """The endpoint of the scope; empty text when it has none."""
        return self.scope.padded[2]

    @property
    def publisher_id(self) -> int:
        """The instance id, as Dynamo calls it for an event source."""
        return self.instance_id

    def __str__(self) -> str:
        return f"{self.scope}/topic/{_segment(self.topic)}/{self.instance_id:x}"

    def __lt__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._sort_key() < other._sort_key()

    def _sort_key(self) -> tuple[str, str, str, int, str]:
        return (*self.scope.padded, self.instance_id, self.topic)


@dataclass(frozen=True, slots=True)
class EventChannelInstanceId(_EventId):
    """The id of an event channel; `str()` is Dynamo's path."""


@dataclass(frozen=True, slots=True)
class EventSourceInstanceId(_EventId):
    """The id of an event source; `str()` is Dynamo's path."""


InstanceId: TypeAlias = (
    EndpointInstanceId | ModelCardInstanceId | EventChannelInstanceId | EventSourceInstanceId
)


def kind_of(id: InstanceId) -> Kind:
    """Return the kind that `id` is the id of."""
    return _KIND_OF_ID[type(id)]


_KIND_OF_ID: dict[type, Kind] = {
    EndpointInstanceId: Kind.ENDPOINT,
    ModelCardInstanceId: Kind.MODEL,
    EventChannelInstanceId: Kind.EVENT_CHANNEL,
    EventSourceInstanceId: Kind.EVENT_SOURCE,
}


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """An endpoint to register; the instance id is the Discovery's.

    `extra` holds further JSON fields of the value, beside those that natsdisc writes.
    """

    namespace: str
    component: str
    endpoint: str
    transport: Transport = field(kw_only=True)
    metadata: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        _check_transport(self.transport)
        check_address(self.transport.kind, self.transport.address)
        _freeze_mapping(self, "metadata")
        _freeze_extra(self)

    def with_instance_id(self, instance_id: int) -> EndpointInstance:
        """This spec as the instance that `instance_id` registers."""
        return EndpointInstance(
            self.namespace,
            self.component,
            self.endpoint,
            instance_id,
            transport=self.transport,
            metadata=self.metadata,
            extra=self.extra,
        )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model card to register; `card` is any JSON value, `model_suffix` names a LoRA adapter."""

    namespace: str
    component: str
    endpoint: str
    card: Any = field(kw_only=True, hash=False)
    model_suffix: str | None = field(kw_only=True, default=None)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        _fold_empty_suffix(self)
        object.__setattr__(self, "card", freeze(self.card))
        _freeze_extra(self)

    def with_instance_id(self, instance_id: int) -> ModelInstance:
        """This spec as the instance that `instance_id` registers."""
        return ModelInstance(
            self.namespace,
            self.component,
            self.endpoint,
            instance_id,
            card=self.card,
            model_suffix=self.model_suffix,
            extra=self.extra,
        )


@dataclass(frozen=True, slots=True)
class EndpointInstance:
    """One live endpoint.

    `status` says whether it takes work; `dataclasses.replace(instance, status=…)` makes a copy with another.
    `extra` holds the JSON fields of its value that natsdisc does not know, in their order. If a newer version
    wrote a status that this one does not know, `status` is UNHEALTHY and `extra["status"]` has the text. It
    stays in the value until another status replaces it.
    """

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    transport: Transport = field(kw_only=True)
    metadata: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)
    status: Status = field(kw_only=True, default=Status.SERVING)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        _check_transport(self.transport)
        _freeze_mapping(self, "metadata")
        _check_status(self)
        _freeze_extra(self)

    def __deepcopy__(self, memo: object) -> EndpointInstance:
        return self  # nothing in it can be changed

    @property
    def id(self) -> EndpointInstanceId:
        return _trusted_endpoint_id(self.namespace, self.component, self.endpoint, self.instance_id)


@dataclass(frozen=True, slots=True)
class ModelInstance:
    """One live model card.

    `extra` holds the JSON fields of its value that natsdisc does not know, in their order.
    """

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    card: Any = field(kw_only=True, hash=False)
    model_suffix: str | None = field(kw_only=True, default=None)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        _fold_empty_suffix(self)
        object.__setattr__(self, "card", freeze(self.card))
        _freeze_extra(self)

    def __deepcopy__(self, memo: object) -> ModelInstance:
        return self  # nothing in it can be changed

    @property
    def id(self) -> ModelCardInstanceId:
        return ModelCardInstanceId(
            self.namespace, self.component, self.endpoint, self.instance_id, self.model_suffix
        )


def _event_transport(transport: object) -> Transport:
    """Return a Transport; a mapping of `kind` and `config`, as on the wire, is one too."""
    if isinstance(transport, Mapping) and transport.keys() == {"kind", "config"}:
        return Transport(transport["kind"], transport["config"])
    _check_transport(transport)
    assert isinstance(transport, Transport)
    return transport


@dataclass(frozen=True, slots=True)
class EventChannelSpec:
    """An event channel to register: where the events of `topic` in `scope` can be subscribed to.

    As of Dynamo 1.6 the kinds of `transport` are `Nats`, `Zmq` and `ZmqBroker`, and the address is an object.

    Example: `EventChannelSpec(Scope.namespace("shop"), "kv", transport=Transport("Zmq", {"endpoint": "tcp://h:1"}))`
    """

    scope: Scope
    topic: str
    transport: Transport = field(kw_only=True)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_scope(self.scope, self.topic)
        object.__setattr__(self, "transport", _event_transport(self.transport))
        _freeze_event_extra(self)

    def with_instance_id(self, instance_id: int) -> EventChannelInstance:
        """Return the instance that `instance_id` registers."""
        return EventChannelInstance(
            self.scope, self.topic, instance_id, transport=self.transport, extra=self.extra
        )


@dataclass(frozen=True, slots=True)
class EventSourceSpec:
    """An event source to register: who publishes `topic` in `scope`; `metadata` is any JSON value."""

    scope: Scope
    topic: str
    metadata: Any = field(kw_only=True, hash=False)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_scope(self.scope, self.topic)
        object.__setattr__(self, "metadata", freeze(self.metadata))
        _freeze_event_extra(self)

    def with_instance_id(self, instance_id: int) -> EventSourceInstance:
        """Return the instance that `instance_id` registers, as its publisher."""
        return EventSourceInstance(
            self.scope, self.topic, instance_id, metadata=self.metadata, extra=self.extra
        )


class _InScope:
    """The names of an event's scope, under the names that the other instances have."""

    __slots__ = ()
    scope: Scope

    @property
    def namespace(self) -> str:
        """The namespace of the scope."""
        return self.scope.padded[0]

    @property
    def component(self) -> str:
        """The component of the scope; empty text when it is a namespace."""
        return self.scope.padded[1]

    @property
    def endpoint(self) -> str:
        """The endpoint of the scope; empty text when it has none."""
        return self.scope.padded[2]


@dataclass(frozen=True, slots=True)
class EventChannelInstance(_InScope):
    """One live event channel; `extra` holds the JSON fields of its value that natsdisc does not know."""

    scope: Scope
    topic: str
    instance_id: int
    transport: Transport = field(kw_only=True)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_scope(self.scope, self.topic)
        check_instance_id(self.instance_id)
        object.__setattr__(self, "transport", _event_transport(self.transport))
        _freeze_event_extra(self)

    def __deepcopy__(self, memo: object) -> EventChannelInstance:
        return self  # nothing in it can be changed

    @property
    def id(self) -> EventChannelInstanceId:
        return EventChannelInstanceId(self.scope, self.topic, self.instance_id)


@dataclass(frozen=True, slots=True)
class EventSourceInstance(_InScope):
    """One live event source; `extra` holds the JSON fields of its value that natsdisc does not know."""

    scope: Scope
    topic: str
    instance_id: int
    metadata: Any = field(kw_only=True, hash=False)
    extra: Mapping[str, Any] = field(kw_only=True, default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        _check_scope(self.scope, self.topic)
        check_instance_id(self.instance_id)
        object.__setattr__(self, "metadata", freeze(self.metadata))
        _freeze_event_extra(self)

    def __deepcopy__(self, memo: object) -> EventSourceInstance:
        return self  # nothing in it can be changed

    @property
    def publisher_id(self) -> int:
        """The instance id, under Dynamo's name for it."""
        return self.instance_id

    @property
    def id(self) -> EventSourceInstanceId:
        return EventSourceInstanceId(self.scope, self.topic, self.instance_id)


CHANNEL_FIELDS = frozenset(("type", "scope", "topic", "instance_id", "transport"))
SOURCE_FIELDS = frozenset(("type", "scope", "topic", "publisher_id", "metadata"))


def _freeze_event_extra(
    value: EventChannelSpec | EventSourceSpec | EventChannelInstance | EventSourceInstance,
) -> None:
    _freeze_mapping(value, "extra")
    known = CHANNEL_FIELDS if isinstance(value, (EventChannelSpec, EventChannelInstance)) else SOURCE_FIELDS
    for name in value.extra:
        if not isinstance(name, str) or name in known:
            raise InvalidValueError(f"extra cannot hold a field {name!r}: use a name of your own")


Spec: TypeAlias = EndpointSpec | ModelSpec | EventChannelSpec | EventSourceSpec
Instance: TypeAlias = EndpointInstance | ModelInstance | EventChannelInstance | EventSourceInstance

# The kind of instance in an event, a watch or a view. Without one, `Added` means `Added[Instance]`.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    InstanceT_co = TypeVar("InstanceT_co", bound=Instance, covariant=True, default=Instance)
else:
    from typing import TypeVar

    InstanceT_co = TypeVar("InstanceT_co", bound=Instance, covariant=True)

# A registry of a hundred thousand instances is read in one go. Its keys prove the names already, so these
# set the fields of a frozen value without checking them again: four times as fast as the constructor.
_new = object.__new__
_set_kind, _set_address = (getattr(Transport, name).__set__ for name in ("kind", "address"))
(
    _set_namespace,
    _set_component,
    _set_endpoint,
    _set_instance_id,
    _set_transport,
    _set_metadata,
    _set_status,
    _set_extra,
) = (getattr(EndpointInstance, field.name).__set__ for field in fields(EndpointInstance))


(
    _set_model_namespace,
    _set_model_component,
    _set_model_endpoint,
    _set_model_instance_id,
    _set_card,
    _set_model_suffix,
    _set_model_extra,
) = (getattr(ModelInstance, field.name).__set__ for field in fields(ModelInstance))

for _class, _names in ((EndpointInstance, ("metadata", "extra")), (ModelInstance, ("card", "extra"))):
    for _name in _names:
        setattr(_class, _name, FrozenOnRead(getattr(_class, _name)))

_set_id_namespace, _set_id_component, _set_id_endpoint, _set_id_number = (
    getattr(EndpointInstanceId, field.name).__set__ for field in fields(EndpointInstanceId)
)


def _trusted_endpoint_id(
    namespace: str, component: str, endpoint: str, instance_id: int
) -> EndpointInstanceId:
    id = _new(EndpointInstanceId)
    _set_id_namespace(id, namespace)
    _set_id_component(id, component)
    _set_id_endpoint(id, endpoint)
    _set_id_number(id, instance_id)
    return id


def trusted_endpoint(
    namespace: str,
    component: str,
    endpoint: str,
    instance_id: int,
    transport_kind: str,
    address: Any,
    metadata: Mapping[str, Any] = EMPTY,
    status: Status = Status.SERVING,
    extra: Mapping[str, Any] = EMPTY,
) -> EndpointInstance:
    """Return an EndpointInstance of values that were checked, and that nobody else holds."""
    transport = _new(Transport)
    _set_kind(transport, transport_kind)
    _set_address(transport, address)
    instance = _new(EndpointInstance)
    _set_namespace(instance, namespace)
    _set_component(instance, component)
    _set_endpoint(instance, endpoint)
    _set_instance_id(instance, instance_id)
    _set_transport(instance, transport)
    _set_metadata(instance, metadata)
    _set_status(instance, status)
    _set_extra(instance, extra)
    return instance


def trusted_model(
    namespace: str,
    component: str,
    endpoint: str,
    instance_id: int,
    card: Any,
    model_suffix: str | None,
    extra: Mapping[str, Any] = EMPTY,
) -> ModelInstance:
    """Return a ModelInstance of values that were checked, and that nobody else holds."""
    instance = _new(ModelInstance)
    _set_model_namespace(instance, namespace)
    _set_model_component(instance, component)
    _set_model_endpoint(instance, endpoint)
    _set_model_instance_id(instance, instance_id)
    _set_card(instance, card)
    _set_model_suffix(instance, model_suffix)
    _set_model_extra(instance, extra)
    return instance


def sort_key(instance: Instance) -> tuple[str, str, str, int, str]:
    """What instances of one kind are sorted by: the order of their ids."""
    return (
        instance.namespace,
        instance.component,
        instance.endpoint,
        instance.instance_id,
        _suffix(instance),
    )


def _suffix(instance: Instance) -> str:
    if isinstance(instance, ModelInstance):
        return instance.model_suffix or ""
    return "" if isinstance(instance, EndpointInstance) else instance.topic


# Sorted by each of these in turn, instances are in the order of `sort_key`: for many of them that is several
# times as fast, because each sort compares plain values, most of which are in order already.
SORT_KEYS: tuple[Callable[[Instance], Any], ...] = (
    _suffix,
    attrgetter("instance_id"),
    attrgetter("endpoint"),
    attrgetter("component"),
    attrgetter("namespace"),
)


@dataclass(frozen=True, slots=True)
class Query:
    """A set of instances: all of a kind, or those below a namespace, component or endpoint.

    `endpoints(…)` and `models(…)` make one.
    """

    kind: Kind
    namespace: str | None = None
    component: str | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            raise InvalidQueryError(f"a query is for a Kind, not {self.kind!r}")
        if self.kind not in (Kind.ENDPOINT, Kind.MODEL):
            raise InvalidQueryError(f"a Query is for endpoints or models: use {self.kind}s(…)")
        hole: str | None = None
        for what in ("namespace", "component", "endpoint"):
            name = getattr(self, what)
            if name is None:
                hole = hole or what
            elif hole is not None:
                raise InvalidQueryError(f"a query with a {what} needs its {hole} too: {what}={name!r}")
            else:
                check_name(what, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are fixed, outermost first."""
        return tuple(n for n in (self.namespace, self.component, self.endpoint) if n is not None)

    def matches(self, id: InstanceId) -> bool:
        """Whether `id` is in the set."""
        place = (id.namespace, id.component, id.endpoint)
        return kind_of(id) is self.kind and place[: len(self.names)] == self.names

    def __str__(self) -> str:
        return "/".join((f"{self.kind}s", *self.names))


@dataclass(frozen=True, slots=True)
class EndpointQuery(Query):
    """A set of endpoints."""

    kind: Kind = field(default=Kind.ENDPOINT, init=False)


@dataclass(frozen=True, slots=True)
class ModelQuery(Query):
    """A set of model cards."""

    kind: Kind = field(default=Kind.MODEL, init=False)


@dataclass(frozen=True, slots=True)
class _EventQuery(Query):
    kind: Kind = field(default=Kind.EVENT_CHANNEL, init=False)
    namespace: str | None = field(default=None, init=False)
    component: str | None = field(default=None, init=False)
    endpoint: str | None = field(default=None, init=False)
    scope: Scope | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        if self.scope is None:
            if self.topic is not None:
                raise InvalidQueryError(
                    f"a query with a topic needs its scope too, because scopes match exactly: "
                    f"topic={self.topic!r:.80}"
                )
        elif not isinstance(self.scope, Scope):
            raise InvalidQueryError(f"scope must be a Scope, not {self.scope!r:.80}")
        elif self.topic is not None:
            check_name("topic", self.topic)

    @property
    def names(self) -> tuple[str, ...]:
        """The leading segments of the paths of this query."""
        if self.scope is None:
            return ()
        return (*self.scope.path, "topic", *(() if self.topic is None else (self.topic,)))

    def matches(self, id: InstanceId) -> bool:
        """Return whether `id` is in the set."""
        if not isinstance(id, (EventChannelInstanceId, EventSourceInstanceId)):
            return False
        same_scope = self.scope is None or id.scope == self.scope
        return kind_of(id) is self.kind and same_scope and self.topic in (None, id.topic)


@dataclass(frozen=True, slots=True)
class EventChannelQuery(_EventQuery):
    """A set of event channels."""

    kind: Kind = field(default=Kind.EVENT_CHANNEL, init=False)


@dataclass(frozen=True, slots=True)
class EventSourceQuery(_EventQuery):
    """A set of event sources."""

    kind: Kind = field(default=Kind.EVENT_SOURCE, init=False)


def event_channels(scope: Scope | None = None, topic: str | None = None) -> EventChannelQuery:
    """Return the query for all event channels, or those of exactly this scope, or of a topic in it.

    Raises InvalidQueryError for a topic without a scope. Example: `event_channels(Scope.namespace("shop"))`
    """
    return EventChannelQuery(scope, topic)


def event_sources(scope: Scope | None = None, topic: str | None = None) -> EventSourceQuery:
    """Return the query for all event sources, or those of exactly this scope, or of a topic in it.

    Raises InvalidQueryError for a topic without a scope. Example: `event_sources(Scope.namespace("shop"))`
    """
    return EventSourceQuery(scope, topic)


def endpoints(
    namespace: str | None = None, component: str | None = None, endpoint: str | None = None
) -> EndpointQuery:
    """All endpoint instances, or those of a namespace, component or endpoint."""
    return EndpointQuery(namespace, component, endpoint)


def models(
    namespace: str | None = None, component: str | None = None, endpoint: str | None = None
) -> ModelQuery:
    """All model cards, or those of a namespace, component or endpoint."""
    return ModelQuery(namespace, component, endpoint)


@dataclass(frozen=True, slots=True)
class Added(Generic[InstanceT_co]):
    """An instance is there: new, or (for an id that was already added) changed."""

    instance: InstanceT_co


@dataclass(frozen=True, slots=True)
class Removed(Generic[InstanceT_co]):
    """An instance is gone; `last` is what it was when last seen."""

    id: InstanceId
    reason: RemovalReason
    last: InstanceT_co | None = field(default=None, compare=False)


Event: TypeAlias = Added | Removed
