"""Kinds, status, reasons of removals, and the rules for names and numbers."""

from __future__ import annotations

import secrets
from enum import StrEnum

from ..errors import InvalidIdError, InvalidNameError

__all__ = [
    "CHANNEL_FIELDS",
    "ENDPOINT_FIELDS",
    "MAX_INSTANCE_ID",
    "MAX_SAFE_INSTANCE_ID",
    "MODEL_FIELDS",
    "SOURCE_FIELDS",
    "STATUSES",
    "Kind",
    "RemovalReason",
    "Status",
    "check_instance_id",
    "check_name",
    "check_place",
    "is_foreign_status",
    "new_instance_id",
    "read_status",
]


MAX_INSTANCE_ID = 2**64 - 1


# The largest whole number that JavaScript, and any reader that keeps JSON numbers as doubles, holds exactly.
MAX_SAFE_INSTANCE_ID = 2**53 - 1


def new_instance_id() -> int:
    """Return a random instance id that is not 0 and fits 53 bits, so that JavaScript can hold it."""
    return secrets.randbelow(MAX_SAFE_INSTANCE_ID) + 1


class Kind(StrEnum):
    """The kind of the instances in a bucket."""

    ENDPOINT = "endpoint"
    MODEL = "model"
    EVENT_CHANNEL = "event_channel"
    EVENT_SOURCE = "event_source"


class Status(StrEnum):
    """Whether an endpoint takes work, as it says itself, or as a check or an operator says."""

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


def check_place(namespace: object, component: object, endpoint: object) -> None:
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


STATUSES = {str(status): status for status in Status}


def read_status(raw: object) -> Status:
    """Return what `raw`, the field `status` of a value, means.

    A text that this version does not know is UNHEALTHY: the newer version that wrote it says that something
    is not as usual. Anything but a text is another system's field and no status: SERVING.
    """
    if isinstance(raw, str):
        return STATUSES.get(raw, Status.UNHEALTHY)
    return Status.SERVING


def is_foreign_status(raw: object) -> bool:
    """Return whether the field `status` of a value must be kept in `extra`, because it names no Status."""
    return not isinstance(raw, str) or raw not in STATUSES


CHANNEL_FIELDS = frozenset(("type", "scope", "topic", "instance_id", "transport"))


SOURCE_FIELDS = frozenset(("type", "scope", "topic", "publisher_id", "metadata"))
