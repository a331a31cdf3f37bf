"""Service discovery for Python microservices on NATS JetStream."""

from .clock import ManualClock
from .discovery import Connecting, Discovery, connect
from .errors import (
    AlreadyRegisteredError,
    ClosedError,
    ConflictError,
    DiscoveryError,
    InsecureConnectionError,
    InvalidIdError,
    InvalidNameError,
    InvalidQueryError,
    InvalidValueError,
    NoHistoryError,
    NoInstanceError,
    PayloadTooLargeError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
    WrongLoopError,
)
from .history import Change
from .lease import State
from .model import (
    Added,
    EndpointInstance,
    EndpointInstanceId,
    EndpointQuery,
    EndpointSpec,
    Event,
    Instance,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    ModelInstance,
    ModelQuery,
    ModelSpec,
    Query,
    RemovalReason,
    Removed,
    Spec,
    Status,
    Transport,
    endpoints,
    models,
)
from .registrar import Registration
from .selection import Selection
from .signing import Signer, Trust
from .stats import Stats
from .store.jetstream import JetStreamStore, require_tls
from .store.memory import MemoryStore
from .view import View
from .watch import Watch

__version__ = "0.1.0"

__all__ = [
    "Added",
    "AlreadyRegisteredError",
    "Change",
    "ClosedError",
    "ConflictError",
    "Connecting",
    "Discovery",
    "DiscoveryError",
    "EndpointInstance",
    "EndpointInstanceId",
    "EndpointQuery",
    "EndpointSpec",
    "Event",
    "InsecureConnectionError",
    "Instance",
    "InstanceId",
    "InvalidIdError",
    "InvalidNameError",
    "InvalidQueryError",
    "InvalidValueError",
    "JetStreamStore",
    "Kind",
    "ManualClock",
    "MemoryStore",
    "ModelCardInstanceId",
    "ModelInstance",
    "ModelQuery",
    "ModelSpec",
    "NoHistoryError",
    "NoInstanceError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "Query",
    "Registration",
    "RemovalReason",
    "Removed",
    "Selection",
    "Signer",
    "Spec",
    "State",
    "Stats",
    "Status",
    "StoreUnavailableError",
    "Transport",
    "Trust",
    "UnsupportedServerError",
    "View",
    "Watch",
    "WrongLoopError",
    "connect",
    "endpoints",
    "models",
    "require_tls",
]
