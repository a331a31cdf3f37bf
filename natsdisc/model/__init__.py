"""Specs, instances, ids, queries and events: frozen values, checked when they are made.

Two instances are the same instance when their ids are equal. An id may come back after it was removed.
JSON values (metadata, cards, extra) take part in equality but not in the hash, so that instances fit into
sets. They cannot be changed in place: their dicts and lists are those of `natsdisc.frozen`.
"""

from .channels import EventChannelInstance, EventChannelSpec, EventSourceInstance, EventSourceSpec
from .events import Added, Event, Removed
from .ids import (
    EndpointInstanceId,
    EventChannelInstanceId,
    EventSourceInstanceId,
    InstanceId,
    ModelCardInstanceId,
    Scope,
    kind_of,
)
from .instances import EndpointInstance, EndpointSpec, ModelInstance, ModelSpec
from .kinds import Instance, InstanceT_co, Spec
from .names import (
    CHANNEL_FIELDS,
    ENDPOINT_FIELDS,
    MAX_INSTANCE_ID,
    MAX_SAFE_INSTANCE_ID,
    MODEL_FIELDS,
    SOURCE_FIELDS,
    Kind,
    RemovalReason,
    Status,
    check_instance_id,
    is_foreign_status,
    new_instance_id,
    read_status,
)
from .queries import (
    EndpointQuery,
    EventChannelQuery,
    EventSourceQuery,
    ModelQuery,
    Query,
    endpoints,
    event_channels,
    event_sources,
    models,
)
from .transport import Transport
from .trusted import SORT_KEYS, sort_key, trusted_endpoint, trusted_model

__all__ = [
    "CHANNEL_FIELDS",
    "ENDPOINT_FIELDS",
    "MAX_INSTANCE_ID",
    "MAX_SAFE_INSTANCE_ID",
    "MODEL_FIELDS",
    "SORT_KEYS",
    "SOURCE_FIELDS",
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
    "InstanceT_co",
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
    "check_instance_id",
    "endpoints",
    "event_channels",
    "event_sources",
    "is_foreign_status",
    "kind_of",
    "models",
    "new_instance_id",
    "read_status",
    "sort_key",
    "trusted_endpoint",
    "trusted_model",
]
