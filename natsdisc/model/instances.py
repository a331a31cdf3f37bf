"""Endpoints and model cards: the spec to register, and the instance that is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..addresses import check_address
from ..errors import InvalidValueError
from ..frozen import FrozenDict, freeze
from .fields import freeze_mapping
from .ids import EndpointInstanceId, ModelCardInstanceId, fold_empty_suffix, trusted_endpoint_id
from .names import (
    ENDPOINT_FIELDS,
    MODEL_FIELDS,
    STATUSES,
    Status,
    check_instance_id,
    check_place,
    is_foreign_status,
    read_status,
)
from .transport import Transport, check_transport

__all__ = ["EndpointInstance", "EndpointSpec", "ModelInstance", "ModelSpec"]


def _freeze_extra(value: EndpointSpec | EndpointInstance | ModelSpec | ModelInstance) -> None:
    freeze_mapping(value, "extra")
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


def _check_status(instance: EndpointInstance) -> None:
    """Make the status of `instance` a Status, and drop a foreign one from `extra` that it replaces."""
    status: object = instance.status
    if not isinstance(status, str) or status not in STATUSES:
        raise InvalidValueError(
            f"status must be one of {', '.join(STATUSES)}, not {status!r:.80}: natsdisc.Status has them"
        )
    object.__setattr__(instance, "status", STATUSES[status])
    extra = instance.extra
    foreign = isinstance(extra, Mapping) and "status" in extra and is_foreign_status(extra["status"])
    if foreign and read_status(extra["status"]) is not instance.status:
        extra = {name: value for name, value in extra.items() if name != "status"}
        object.__setattr__(instance, "extra", extra)


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
        check_place(self.namespace, self.component, self.endpoint)
        check_transport(self.transport)
        check_address(self.transport.kind, self.transport.address)
        freeze_mapping(self, "metadata")
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
        check_place(self.namespace, self.component, self.endpoint)
        fold_empty_suffix(self)
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
        check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        check_transport(self.transport)
        freeze_mapping(self, "metadata")
        _check_status(self)
        _freeze_extra(self)

    def __deepcopy__(self, memo: object) -> EndpointInstance:
        return self  # nothing in it can be changed

    @property
    def id(self) -> EndpointInstanceId:
        return trusted_endpoint_id(self.namespace, self.component, self.endpoint, self.instance_id)


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
        check_place(self.namespace, self.component, self.endpoint)
        check_instance_id(self.instance_id)
        fold_empty_suffix(self)
        object.__setattr__(self, "card", freeze(self.card))
        _freeze_extra(self)

    def __deepcopy__(self, memo: object) -> ModelInstance:
        return self  # nothing in it can be changed

    @property
    def id(self) -> ModelCardInstanceId:
        return ModelCardInstanceId(
            self.namespace, self.component, self.endpoint, self.instance_id, self.model_suffix
        )
