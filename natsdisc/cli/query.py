"""The arguments that say which instances are meant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

import natsdisc
from natsdisc.model import Scope

__all__ = ["query_arguments"]

_F = TypeVar("_F", bound=Callable[..., Any])


def query_arguments(command: _F) -> _F:
    """Give a command `[NS [COMPONENT [ENDPOINT]]] [--models]` and the like, as one argument `query`."""

    @functools.wraps(command)
    def with_query(
        *args: Any,
        namespace: str | None,
        component: str | None,
        endpoint: str | None,
        models: bool,
        event_channels: bool,
        event_sources: bool,
        topic: str | None,
        **others: Any,
    ) -> Any:
        if models + event_channels + event_sources > 1:
            raise click.UsageError("--models, --event-channels and --event-sources exclude each other.")
        if event_channels or event_sources:
            names = tuple(name for name in (namespace, component, endpoint) if name is not None)
            events = natsdisc.event_channels if event_channels else natsdisc.event_sources
            return command(*args, query=events(Scope(names) if names else None, topic), **others)
        if topic is not None:
            raise click.UsageError("--topic belongs to --event-channels and --event-sources.")
        make = natsdisc.models if models else natsdisc.endpoints
        return command(*args, query=make(namespace, component, endpoint), **others)

    result: Any = click.option("--models", is_flag=True, help="Model cards instead of endpoints.")(with_query)
    result = click.option("--topic", help="Only this topic of the scope NS COMPONENT ENDPOINT.")(result)
    result = click.option("--event-sources", is_flag=True, help="Dynamo's event sources.")(result)
    result = click.option("--event-channels", is_flag=True, help="Dynamo's event channels.")(result)
    for name, metavar in (
        ("endpoint", "[ENDPOINT]]]"),
        ("component", "[COMPONENT"),
        ("namespace", "[NS"),
    ):
        result = click.argument(name, required=False, metavar=metavar)(result)
    return result  # type: ignore[no-any-return]
