"""Instances made without checks, of values that were checked already, and their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from ..frozen import EMPTY, FrozenOnRead
from .instances import EndpointInstance, ModelInstance
from .kinds import Instance
from .names import Status
from .transport import Transport

__all__ = ["SORT_KEYS", "sort_key", "trusted_endpoint", "trusted_model"]


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
    """Functions that give the sort key of an instance, by kind: the order of ids."""
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
