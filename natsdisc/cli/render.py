"""Instances and events as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from natsdisc import wire
from natsdisc.model import (
    Added,
    EndpointInstance,
    Event,
    EventChannelInstance,
    Instance,
    Kind,
    ModelInstance,
    Status,
)
from natsdisc.safe import safe, safe_json
from natsdisc.store.jetstream.copies import Difference

from .path import path_of

__all__ = [
    "counted",
    "detail",
    "event_fields",
    "event_json",
    "fields_of",
    "instance_json",
    "instances_json",
    "json_option",
    "objects_json",
    "rows_of",
    "span_text",
    "status_of",
    "wrong_copy",
]

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(command: _F) -> _F:
    """Give a command `--json`, as an argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON for programs.")(command)


def wrong_copy(bucket: str, difference: Difference) -> str:
    """Say which node's copy of `bucket` differs from its leader's, in what, and how to mend it."""
    text = f"the copy on {difference.node} is wrong: "
    text += f"{len(difference.extra)} too many, {len(difference.missing)} missing"
    if difference.missing:
        text += f"; have it made anew: nats stream cluster peer-remove KV_{bucket} {difference.node}"
    return text


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, as in "1 message", "2 messages"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def span_text(seconds: float) -> str:
    """Return a span of time in its largest unit that leaves two of it or more."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def status_of(instance: Instance) -> str:
    """Return whether an instance takes work: `serving`, or why it takes none; model cards always do."""
    return str(instance.status) if isinstance(instance, EndpointInstance) else str(Status.SERVING)


def fields_of(instance: Instance) -> dict[str, Any]:
    """Return an instance as programs read it: the object that is stored, and its place as `id`.

    JavaScript loses digits of the number `instance_id`; the place holds them all.
    """
    return {"id": path_of(instance.id), **json.loads(wire.dumps(instance))}


def instance_json(instance: Instance) -> str:
    """Return the object of `fields_of` on one line."""
    return safe_json(compact(fields_of(instance)))


def instances_json(instances: Iterable[Instance]) -> str:
    """Return one array of the objects as `fields_of` has them, one a line."""
    return objects_json(map(fields_of, instances))


def objects_json(objects: Iterable[dict[str, Any]]) -> str:
    """Return one array of `objects`, one a line."""
    lines = ",\n".join(safe_json(compact(one)) for one in objects)
    return f"[\n{lines}\n]" if lines else "[]"


def event_fields(event: Event) -> dict[str, Any]:
    """Return an event as programs read it."""
    if isinstance(event, Added):
        instance = event.instance
        return {"event": "added", "id": path_of(instance.id), "instance": fields_of(instance)}
    return {"event": "removed", "id": path_of(event.id), "reason": str(event.reason)}


def event_json(event: Event) -> str:
    """Return an event as one line of JSON."""
    return safe_json(compact(event_fields(event)))


def detail(instance: Instance) -> str:
    """Return an instance in a few words: the way to reach it and its status, or its model's name."""
    if isinstance(instance, EndpointInstance):
        status = status_of(instance)
        mark = "" if status == Status.SERVING else f"  {status}"
        return safe(f"{instance.transport.kind} {_text(instance.transport.address)}") + mark
    if isinstance(instance, EventChannelInstance):
        return safe(f"{instance.transport.kind} {_text(instance.transport.address)}")
    return (
        model_name(instance.card) if isinstance(instance, ModelInstance) else safe(_text(instance.metadata))
    )


_HEADS = {
    Kind.ENDPOINT: ["TRANSPORT", "ADDRESS", "METADATA"],
    Kind.MODEL: ["MODEL", "CARD"],
    Kind.EVENT_CHANNEL: ["TOPIC", "TRANSPORT"],
    Kind.EVENT_SOURCE: ["TOPIC", "METADATA"],
}


def rows_of(
    kind: Kind, instances: Sequence[Instance], extra: Sequence[tuple[str, Sequence[str]]] = ()
) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the rows of a table; columns that would be empty are left out.

    `extra` holds further columns: each a heading and a text for each instance.
    """
    head = ["INSTANCE", "STATUS"]
    head += _HEADS[kind]
    rows = [[safe(cell) for cell in _cells(instance)] for instance in instances]
    if all(row[1] == Status.SERVING for row in rows):
        for row in rows:
            row[1] = ""
    for title, texts in extra:
        head.insert(2, title)
        for row, text in zip(rows, texts, strict=True):
            row.insert(2, safe(text))
    empty = [at for at in range(len(head)) if not any(row[at] for row in rows)]
    for at in reversed(empty):
        for cells in (head, *rows):
            del cells[at]
    return head, rows


def model_name(card: Any) -> str:
    """Return the name that a model card shows, made safe."""
    name = card.get("display_name") if isinstance(card, dict) else None
    return safe(name) if isinstance(name, str) and name else "-"


def compact(value: Any) -> str:
    """Return `value` as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cells(instance: Instance) -> list[str]:
    place = [path_of(instance.id), status_of(instance)]
    if isinstance(instance, EndpointInstance):
        metadata = compact(dict(instance.metadata)) if instance.metadata else ""
        return [*place, instance.transport.kind, _text(instance.transport.address), metadata]
    if not isinstance(instance, ModelInstance):
        return [*place, instance.topic, detail(instance)]
    return [*place, model_name(instance.card), f"{len(compact(instance.card).encode())} B"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)
