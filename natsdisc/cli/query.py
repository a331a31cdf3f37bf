"""The arguments that say which instances are meant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

import natsdisc

__all__ = ["query_arguments"]

_F = TypeVar("_F", bound=Callable[..., Any])


def query_arguments(command: _F) -> _F:
    """Give a command `[NS [COMPONENT [ENDPOINT]]] [--models]`, as one argument `query`."""

    @functools.wraps(command)
    def with_query(
        *args: Any,
        namespace: str | None,
        component: str | None,
        endpoint: str | None,
        models: bool,
        **others: Any,
    ) -> Any:
        make = natsdisc.models if models else natsdisc.endpoints
        return command(*args, query=make(namespace, component, endpoint), **others)

    result: Any = click.option("--models", is_flag=True, help="Model cards instead of endpoints.")(with_query)
    for name, metavar in (
        ("endpoint", "[ENDPOINT]]]"),
        ("component", "[COMPONENT"),
        ("namespace", "[NS"),
    ):
        result = click.argument(name, required=False, metavar=metavar)(result)
    return result  # type: ignore[no-any-return]
