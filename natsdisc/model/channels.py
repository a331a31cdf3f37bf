"""Event channels and event sources: the spec to register, and the instance that is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidValueError
from ..frozen import FrozenDict, freeze
from .fields import freeze_mapping
from .ids import EventChannelInstanceId, EventSourceInstanceId, Scope, check_scope
from .names import CHANNEL_FIELDS, SOURCE_FIELDS, check_instance_id
from .transport import Transport, event_transport

__all__ = ["EventChannelInstance", "EventChannelSpec", "EventSourceInstance", "EventSourceSpec"]


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
        check_scope(self.scope, self.topic)
        object.__setattr__(self, "transport", event_transport(self.transport))
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
        check_scope(self.scope, self.topic)
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
        check_scope(self.scope, self.topic)
        check_instance_id(self.instance_id)
        object.__setattr__(self, "transport", event_transport(self.transport))
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
        check_scope(self.scope, self.topic)
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


def _freeze_event_extra(
    value: EventChannelSpec | EventSourceSpec | EventChannelInstance | EventSourceInstance,
) -> None:
    freeze_mapping(value, "extra")
    known = CHANNEL_FIELDS if isinstance(value, (EventChannelSpec, EventChannelInstance)) else SOURCE_FIELDS
    for name in value.extra:
        if not isinstance(name, str) or name in known:
            raise InvalidValueError(f"extra cannot hold a field {name!r}: use a name of your own")
