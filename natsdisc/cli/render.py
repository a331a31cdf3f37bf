"""Instances and events as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

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

from .output import cell, on_terminal, say

__all__ = [
    "counted",
    "detail",
    "event_json",
    "instances_json",
    "json_option",
    "rows_of",
    "show_table",
    "wrong_copy",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_GAP = 2
_LONG = ("ADDRESS", "METADATA", "MODEL")  # these are folded first where a terminal is narrow


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
    """As in "1 message", "2 messages"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def instances_json(instances: Iterable[Instance]) -> str:
    """Return one array of the objects as they are on the wire, one a line."""
    lines = ",\n".join(safe_json(wire.dumps(instance).decode()) for instance in instances)
    return f"[\n{lines}\n]" if lines else "[]"


def event_json(event: Event) -> str:
    """Return an event as one line of JSON."""
    if isinstance(event, Added):
        return safe_json(f'{{"event":"added","instance":{wire.dumps(event.instance).decode()}}}')
    fields = {"event": "removed", "id": str(event.id), "reason": event.reason}
    return safe_json(_compact(fields))


def detail(instance: Instance) -> str:
    """What an instance is, in a few words: where it is reached, or which model it is."""
    if isinstance(instance, EndpointInstance):
        mark = "" if instance.status is Status.SERVING else f"  {instance.status}"
        return safe(f"{instance.transport.kind} {_text(instance.transport.address)}") + mark
    if isinstance(instance, EventChannelInstance):
        return safe(f"{instance.transport.kind} {_text(instance.transport.address)}")
    return (
        _model_name(instance.card) if isinstance(instance, ModelInstance) else safe(_text(instance.metadata))
    )


_HEADS = {
    Kind.ENDPOINT: ["TRANSPORT", "ADDRESS", "METADATA"],
    Kind.MODEL: ["SUFFIX", "MODEL", "CARD"],
    Kind.EVENT_CHANNEL: ["TOPIC", "TRANSPORT"],
    Kind.EVENT_SOURCE: ["TOPIC", "METADATA"],
}


def rows_of(kind: Kind, instances: Sequence[Instance]) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of a table; columns that would be empty are left out."""
    head = ["NAMESPACE", "COMPONENT", "ENDPOINT", "INSTANCE"]
    head += _HEADS[kind]
    optional = "SUFFIX" if kind is Kind.MODEL else _HEADS[kind][-1]
    rows = [[safe(cell) for cell in _cells(instance)] for instance in instances]
    at = head.index(optional)
    if not any(row[at] for row in rows):
        for cells in (head, *rows):
            del cells[at]
    return head, rows


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, aligned plain text elsewhere."""
    if on_terminal():
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for title in head:
            table.add_column(title.capitalize(), overflow="fold", no_wrap=title not in _LONG)
        for row in rows:
            table.add_row(*map(cell, row))
        Console().print(table)
        return
    widths = [max(map(cell_len, column)) + _GAP for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        say("".join(padded).rstrip())


def _cells(instance: Instance) -> list[str]:
    place = [instance.namespace, instance.component, instance.endpoint, f"{instance.instance_id:x}"]
    if isinstance(instance, EndpointInstance):
        metadata = _compact(dict(instance.metadata)) if instance.metadata else ""
        return [*place, instance.transport.kind, _text(instance.transport.address), metadata]
    if not isinstance(instance, ModelInstance):
        return [*place, instance.topic, detail(instance)]
    size = len(_compact(instance.card).encode())
    return [*place, instance.model_suffix or "", _model_name(instance.card), f"{size} B"]


def _model_name(card: Any) -> str:
    name = card.get("display_name") if isinstance(card, dict) else None
    return safe(name) if isinstance(name, str) and name else "-"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
