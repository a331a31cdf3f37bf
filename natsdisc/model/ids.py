"""The ids of instances, and the scopes of events."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from ..errors import InvalidNameError, InvalidValueError
from .names import Kind, check_instance_id, check_name, check_place

__all__ = [
    "EndpointInstanceId",
    "EventChannelInstanceId",
    "EventSourceInstanceId",
    "InstanceId",
    "ModelCardInstanceId",
    "Scope",
    "check_scope",
    "fold_empty_suffix",
    "kind_of",
    "trusted_endpoint_id",
]


@dataclass(frozen=True, slots=True, order=True)
class EndpointInstanceId:
    """The id of an endpoint instance; `str()` is the path that the seed uses."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int

    def __post_init__(self) -> None:
        check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.component}/{self.endpoint}/{self.instance_id:x}"


@dataclass(frozen=True, slots=True)
class ModelCardInstanceId:
    """The id of a model card; a LoRA adapter has a `model_suffix`."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    model_suffix: str | None = None

    def __post_init__(self) -> None:
        check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        fold_empty_suffix(self)

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.component}/{self.endpoint}/{self.instance_id:x}"
        return f"{path}/{self.model_suffix}" if self.model_suffix else path

    def __lt__(self, other: ModelCardInstanceId) -> bool:
        if not isinstance(other, ModelCardInstanceId):
            return NotImplemented
        return self._sort_key() < other._sort_key()

    def _sort_key(self) -> tuple[str, str, str, int, str]:
        return (self.namespace, self.component, self.endpoint, self.instance_id, self.model_suffix or "")


def fold_empty_suffix(value: Any) -> None:
    """The seed treats an empty suffix as none."""
    if value.model_suffix == "":
        object.__setattr__(value, "model_suffix", None)
    elif value.model_suffix is not None:
        check_name("model_suffix", value.model_suffix)


@dataclass(frozen=True, slots=True)
class Scope:
    """The owner of an event channel or source: a namespace, a component or an endpoint.

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


def check_scope(scope: object, topic: object) -> None:
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
        check_scope(self.scope, self.topic)
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


# An id is asked for more often than anything else: setting the fields of a frozen value is faster.
_set_id_namespace, _set_id_component, _set_id_endpoint, _set_id_number = (
    getattr(EndpointInstanceId, field.name).__set__ for field in fields(EndpointInstanceId)
)


def trusted_endpoint_id(
    namespace: str, component: str, endpoint: str, instance_id: int
) -> EndpointInstanceId:
    """Return an id of values that were checked already, without checking them again."""
    id = object.__new__(EndpointInstanceId)
    _set_id_namespace(id, namespace)
    _set_id_component(id, component)
    _set_id_endpoint(id, endpoint)
    _set_id_number(id, instance_id)
    return id
