"""Options that more than one command has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from natsdisc.model import check_instance_id

__all__ = ["instance_id_option"]

_F = TypeVar("_F", bound=Callable[..., Any])


def instance_id_option(help: str) -> Callable[[_F], _F]:
    """Give a command `--id HEX`, as an argument `instance_id`."""
    return click.option("--id", "instance_id", callback=_instance_id, metavar="HEX", help=help)


def _instance_id(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        instance_id = int(value, 16)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a hexadecimal number") from None
    check_instance_id(instance_id)
    return instance_id
