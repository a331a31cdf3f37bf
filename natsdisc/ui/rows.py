"""An instance as a row of the page, and as the text of its own page."""

from __future__ import annotations

from typing import Any

import orjson

from natsdisc import EndpointInstance, EventSourceInstance, ModelInstance, wire
from natsdisc.keys import key_of
from natsdisc.model import Instance, InstanceId, kind_of
from natsdisc.safe import safe

__all__ = ["name_of", "row_id", "row_of", "value_text"]

# Long addresses and names are shown in full on the instance's own page.
_LONGEST_TEXT = 200


def row_id(id: InstanceId) -> str:
    """Return what names an instance in links and messages: its kind and its key."""
    return f"{kind_of(id)}:{key_of(id)}"


def name_of(id: InstanceId) -> str:
    """Return the id as text for people, without control characters."""
    return safe(str(id))[: 2 * _LONGEST_TEXT]


def row_of(instance: Instance) -> dict[str, Any]:
    """Return an instance as the page shows it in its list.

    Numbers of 64 bits are text, because JavaScript loses digits of them.
    """
    row: dict[str, Any] = {
        "id": row_id(instance.id),
        "kind": str(kind_of(instance.id)),
        "place": [_text(instance.namespace), _text(instance.component), _text(instance.endpoint)],
        "hex": f"{instance.instance_id:x}",
    }
    row["status"] = str(instance.status) if isinstance(instance, EndpointInstance) else ""
    row["detail"] = _text(_detail(instance))
    return row


def _detail(instance: Instance) -> str:
    if isinstance(instance, ModelInstance):
        return instance.model_suffix or ""
    topic = "" if isinstance(instance, EndpointInstance) else f"{instance.topic} "
    if isinstance(instance, EventSourceInstance):
        return topic
    return f"{topic}{instance.transport.kind} {_plain(instance.transport.address)}"


def value_text(instance: Instance) -> str:
    """Return the stored JSON of an instance, indented, with ids in full."""
    return orjson.dumps(orjson.loads(wire.dumps(instance)), option=orjson.OPT_INDENT_2).decode()


def _plain(address: object) -> str:
    return address if isinstance(address, str) else orjson.dumps(address).decode()


def _text(text: str) -> str:
    return safe(text)[:_LONGEST_TEXT]
