"""What is put into every registry: the same instances, as the same bytes."""

from __future__ import annotations

from typing import Any

import orjson

NAMESPACE, COMPONENT = "shop", "cart"
ENDPOINTS = 20
FIRST_ID = 0x4A0B_0000_0000_0000
# Long enough that no measurement outlives it, and what `connect` takes when nothing is said.
TTL = 10.0


def endpoint(number: int) -> str:
    """The endpoint of a seeded instance: twenty of them share what there is."""
    return f"checkout{number % ENDPOINTS:02}"


def instance_id(number: int) -> int:
    return FIRST_ID + number


def key(number: int) -> str:
    """The registry's key of a seeded instance."""
    return f"{NAMESPACE}.{COMPONENT}.{endpoint(number)}.{instance_id(number):x}"


def value(number: int) -> bytes:
    """The JSON of a seeded instance."""
    return document(endpoint(number), instance_id(number))


def registered(number: int) -> str:
    """The endpoint of an instance that is registered while we measure."""
    return f"r{number}"


def registered_value(number: int) -> bytes:
    return document(registered(number), FIRST_ID)


def registered_key(number: int) -> str:
    return f"{NAMESPACE}.{COMPONENT}.{registered(number)}.{FIRST_ID:x}"


def document(endpoint: str, id: int) -> bytes:
    return orjson.dumps(
        {
            "type": "Endpoint",
            "component": COMPONENT,
            "endpoint": endpoint,
            "namespace": NAMESPACE,
            "instance_id": id,
            "transport": {"nats_tcp": f"{NAMESPACE}.{COMPONENT}.{endpoint}-{id:x}"},
        }
    )


def decode(data: bytes) -> dict[str, Any]:
    """Decode a value, as every peer does."""
    fields: dict[str, Any] = orjson.loads(data)
    return fields


def endpoint_of(data: bytes) -> str:
    """Decode a value, and say which endpoint it is."""
    return str(decode(data)["endpoint"])
