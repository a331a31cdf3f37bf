"""Places of Dynamo's event channels and sources: its paths, or the names of a scope."""

from __future__ import annotations

from collections.abc import Sequence

import click

from natsdisc.model import Scope

__all__ = ["event_path", "parse_event_path"]

_LEVELS = ("namespace", "component", "endpoint")
_TOPIC = "topic"


def event_path(scope: Scope | None, topic: str | None) -> str:
    """Return the path of a scope and a topic: `namespace/shop/component/cart/topic/orders`."""
    if scope is None:
        return ""
    if topic is None:
        return str(scope)
    # A topic is written as a name is.
    return f"{scope}/{_TOPIC}/{str(Scope.namespace(topic)).removeprefix('namespace/')}"


def parse_event_path(parts: Sequence[str]) -> tuple[Scope | None, str | None, str | None]:
    """Return the scope, the topic and the id that are in `parts`: of such a path, or of names alone.

    A namespace whose name is "namespace" must be written as a path. Raises click.UsageError.
    """
    if not parts:
        return None, None, None
    if parts[0] != _LEVELS[0]:
        if len(parts) > len(_LEVELS):
            raise click.UsageError(
                "A scope is NS, NS/COMPONENT or NS/COMPONENT/ENDPOINT; --topic narrows it."
            )
        return Scope(tuple(parts)), None, None
    left, names = list(parts), []
    for level in _LEVELS:
        if left[:1] == [level] and len(left) > 1:
            names.append(left[1])
            del left[:2]
    if not names or (left and (left[0] != _TOPIC or len(left) not in (2, 3))):
        raise click.UsageError(
            f"{'/'.join(parts)!r} is not namespace/NS/component/COMPONENT/endpoint/ENDPOINT/topic/TOPIC/ID."
        )
    return Scope(tuple(names)), (left[1] if left else None), (left[2] if len(left) == 3 else None)
