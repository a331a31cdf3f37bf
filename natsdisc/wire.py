"""Instances as the seed's JSON, byte for byte as serde writes it, and back.

The order of the fields: the seed's, then `metadata` of an endpoint when there is any, then its `status` when
it is not serving. Then come the fields that natsdisc does not know (`instance.extra`), in the order in which
they were read. Dynamo appends its newer fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from .errors import InvalidIdError, InvalidNameError, InvalidValueError
from .frozen import EMPTY, freeze
from .keys import Place
from .model import (
    CHANNEL_FIELDS,
    ENDPOINT_FIELDS,
    MAX_INSTANCE_ID,
    MODEL_FIELDS,
    SOURCE_FIELDS,
    EndpointInstance,
    EventChannelInstance,
    EventSourceInstance,
    Instance,
    Kind,
    ModelInstance,
    Scope,
    Status,
    Transport,
    is_foreign_status,
    read_status,
    trusted_endpoint,
    trusted_model,
)

__all__ = ["dumps", "loads", "loads_at"]

_ENDPOINT, _MODEL = "Endpoint", "Model"
_CHANNEL, _SOURCE = "EventChannel", "EventSource"
_KINDS = {
    _ENDPOINT: Kind.ENDPOINT,
    _MODEL: Kind.MODEL,
    _CHANNEL: Kind.EVENT_CHANNEL,
    _SOURCE: Kind.EVENT_SOURCE,
}

_ENDPOINT_FIELDS_OF_THE_SEED = ENDPOINT_FIELDS - {"status"}

# orjson writes 254 levels; a value with fewer brackets has fewer levels.
_DEPTH_IN_DOUBT = 200


def dumps(instance: Instance) -> bytes:
    """The JSON of an instance; raises InvalidValueError for what JSON cannot hold."""
    fields: dict[str, Any]
    if isinstance(instance, EndpointInstance):
        fields = {
            "type": _ENDPOINT,
            "component": instance.component,
            "endpoint": instance.endpoint,
            "namespace": instance.namespace,
            "instance_id": instance.instance_id,
            "transport": {str(instance.transport.kind): instance.transport.address},
        }
        if instance.metadata:
            fields["metadata"] = dict(instance.metadata)
        if instance.status is not Status.SERVING:
            fields["status"] = str(instance.status)
    elif isinstance(instance, ModelInstance):
        fields = {
            "type": _MODEL,
            "namespace": instance.namespace,
            "component": instance.component,
            "endpoint": instance.endpoint,
            "instance_id": instance.instance_id,
            "card_json": instance.card,
        }
        if instance.model_suffix is not None:
            fields["model_suffix"] = instance.model_suffix
    elif isinstance(instance, EventChannelInstance):
        fields = {
            "type": _CHANNEL,
            "scope": _scope_json(instance.scope),
            "topic": instance.topic,
            "instance_id": instance.instance_id,
            "transport": {"kind": str(instance.transport.kind), "config": instance.transport.address},
        }
    elif isinstance(instance, EventSourceInstance):
        fields = {
            "type": _SOURCE,
            "scope": _scope_json(instance.scope),
            "topic": instance.topic,
            "publisher_id": instance.instance_id,
            "metadata": instance.metadata,
        }
    else:
        raise InvalidValueError(f"not an instance: {type(instance).__name__}")
    part = "card or extra" if isinstance(instance, ModelInstance) else "metadata, transport or extra"
    if instance.extra:
        fields.update(instance.extra)
    try:
        # Values that only orjson can write (dates, dataclasses) would come back as something else.
        data = orjson.dumps(fields, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"the {part} of {instance.id} has no JSON form: {error}") from error
    if b"null" in data and _has_no_number(fields):
        raise InvalidValueError(
            f"the {part} of {instance.id} has no JSON form: NaN and infinity are no numbers"
        )
    return data


def loads(data: bytes) -> Instance:
    """The instance in `data`; raises InvalidValueError when there is none."""
    fields = _parse(data)
    try:
        kind = _kind(fields)
        if kind is Kind.EVENT_CHANNEL or kind is Kind.EVENT_SOURCE:
            return _event(fields, kind)
        place = (fields["namespace"], fields["component"], fields["endpoint"], fields["instance_id"])
        if kind is Kind.ENDPOINT:
            return EndpointInstance(
                *place,
                transport=Transport(*_transport(fields)),
                metadata=_metadata(fields),
                status=read_status(fields.get("status")),
                extra=_extra(fields, _known_of_endpoint(fields)),
            )
        return ModelInstance(
            *place,
            card=fields["card_json"],
            model_suffix=fields.get("model_suffix"),
            extra=_extra(fields, MODEL_FIELDS),
        )
    except KeyError as error:
        raise InvalidValueError(f"no field {error}") from error
    except (InvalidNameError, InvalidIdError) as error:
        raise InvalidValueError(str(error)) from error


def loads_at(place: Place, kind: Kind, data: bytes) -> Instance:
    """The instance in `data`, which must be the one of `kind` at `place`; raises InvalidValueError."""
    fields = _parse(data)
    namespace, component, endpoint, hex_id, suffix = place
    if kind is Kind.EVENT_CHANNEL or kind is Kind.EVENT_SOURCE:
        return _event_at(place, kind, fields)
    try:
        instance_id = fields["instance_id"]
        if (
            type(instance_id) is not int
            or f"{instance_id:x}" != hex_id  # the one way to write it
            or not 0 <= instance_id <= MAX_INSTANCE_ID
            or fields["endpoint"] != endpoint
            or fields["component"] != component
            or fields["namespace"] != namespace
            or fields["type"] != (_ENDPOINT if kind is Kind.ENDPOINT else _MODEL)
        ):
            raise InvalidValueError("its value names another instance than its key")
        if kind is Kind.ENDPOINT:
            transport_kind, address = _transport(fields)
            if type(address) is not str:
                address = freeze(address)
            names = (namespace, component, endpoint, instance_id, transport_kind, address)
            if len(fields) == 6:
                return trusted_endpoint(*names)
            extra = _extra(fields, _known_of_endpoint(fields))
            return trusted_endpoint(*names, _metadata(fields), read_status(fields.get("status")), extra)
        if (fields.get("model_suffix") or None) != suffix:
            raise InvalidValueError("its value names another instance than its key")
        known = 6 + ("model_suffix" in fields)
        extra = _extra(fields, MODEL_FIELDS) if len(fields) > known else EMPTY
        return trusted_model(namespace, component, endpoint, instance_id, fields["card_json"], suffix, extra)
    except KeyError as error:
        raise InvalidValueError(f"no field {error}") from error


def _scope_json(scope: Scope) -> dict[str, Any]:
    match scope.names:
        case (namespace,):
            return {"kind": "namespace", "name": namespace}
        case (namespace, component):
            return {"kind": "component", "namespace": namespace, "component": component}
        case (namespace, component, endpoint):
            names = {"namespace": namespace, "component": component, "name": endpoint}
            return {"kind": "endpoint", "endpoint": names}
    raise InvalidValueError(f"not a scope: {scope!r}")


def _scope(fields: object) -> Scope:
    """Return the Scope in a value; raises InvalidValueError, also for one with more fields than we know."""
    names: tuple[Any, ...] = ()
    match fields:
        case {"kind": "namespace", "name": name}:
            names = (name,)
        case {"kind": "component", "namespace": namespace, "component": component}:
            names = (namespace, component)
        case {"kind": "endpoint", "endpoint": {"namespace": namespace, "component": component, "name": name}}:
            names = (namespace, component, name)
    if not names or _scope_json(scope := Scope(names)) != fields:
        raise InvalidValueError(f"not a scope: {fields!r:.80}")
    return scope


def _event(fields: dict[str, Any], kind: Kind) -> EventChannelInstance | EventSourceInstance:
    try:
        scope, topic = _scope(fields["scope"]), fields["topic"]
        if kind is Kind.EVENT_SOURCE:
            return EventSourceInstance(
                scope,
                topic,
                fields["publisher_id"],
                metadata=fields["metadata"],
                extra=_extra(fields, SOURCE_FIELDS),
            )
        transport = fields["transport"]
        if type(transport) is not dict or transport.keys() != {"kind", "config"}:
            raise InvalidValueError(f"transport must be an object of kind and config, not {transport!r:.80}")
        return EventChannelInstance(
            scope,
            topic,
            fields["instance_id"],
            transport=Transport(transport["kind"], transport["config"]),
            extra=_extra(fields, CHANNEL_FIELDS),
        )
    except KeyError as error:
        raise InvalidValueError(f"no field {error}") from error
    except (InvalidNameError, InvalidIdError) as error:
        raise InvalidValueError(str(error)) from error


def _event_at(place: Place, kind: Kind, fields: dict[str, Any]) -> Instance:
    """Return the event channel or source in `fields`; raises InvalidValueError unless it is at `place`."""
    if "type" not in fields:
        raise InvalidValueError("no field 'type'")
    if _kind(fields) is not kind:
        raise InvalidValueError("its value names another instance than its key")
    event = _event(fields, kind)
    if (*event.scope.padded, f"{event.instance_id:x}", event.topic) != place:
        raise InvalidValueError("its value names another instance than its key")
    return event


def _parse(data: bytes) -> dict[str, Any]:
    try:
        # orjson takes no subclass, such as a SignedValue.
        fields = orjson.loads(data if type(data) is bytes else bytes(data))
    except ValueError as error:
        raise InvalidValueError(f"not JSON: {error}") from error
    if type(fields) is not dict:
        raise InvalidValueError(f"not a JSON object but {type(fields).__name__}")
    # orjson reads deeper values than it writes: what could not be registered is not an instance.
    if len(data) > _DEPTH_IN_DOUBT and data.count(b"[") + data.count(b"{") > _DEPTH_IN_DOUBT:
        try:
            orjson.dumps(fields)
        except TypeError as error:
            raise InvalidValueError(f"nested too deeply: {error}") from error
    return fields


def _kind(fields: dict[str, Any]) -> Kind:
    kind = _KINDS.get(fields["type"]) if isinstance(fields["type"], str) else None
    if kind is None:
        raise InvalidValueError("the type is neither Endpoint, Model, EventChannel nor EventSource")
    return kind


def _transport(fields: dict[str, Any]) -> tuple[str, Any]:
    transport = fields["transport"]
    if type(transport) is not dict or len(transport) != 1:
        raise InvalidValueError(f"transport must be an object with one kind, not {transport!r:.80}")
    [item] = transport.items()
    if not item[0]:
        raise InvalidValueError("the transport kind is empty")
    return item


def _extra(fields: dict[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    if fields.keys() <= known:
        return EMPTY
    return {name: value for name, value in fields.items() if name not in known}


def _known_of_endpoint(fields: dict[str, Any]) -> frozenset[str]:
    """Return the names of the fields that do not go into `extra`."""
    if "status" in fields and is_foreign_status(fields["status"]):
        return _ENDPOINT_FIELDS_OF_THE_SEED
    return ENDPOINT_FIELDS


def _metadata(fields: dict[str, Any]) -> Mapping[str, Any]:
    metadata: object = fields.get("metadata", EMPTY)
    if not isinstance(metadata, dict):
        raise InvalidValueError(f"metadata must be an object, not {type(metadata).__name__}")
    return metadata


def _has_no_number(value: object) -> bool:
    """Whether there is a float that orjson, like serde, writes as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_number, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_no_number, value))
