"""Options that more than one command has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from .path import parse_id

__all__ = ["SPAN", "ParamType", "Span", "instance_id_option"]

if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:  # not generic before click 8.5
    ParamType = click.ParamType

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,9})?|\.\d{1,9})(ms|[smhd]?)")
_LONGEST = 366 * 86400.0  # seconds: leases end after a year at most, and nothing here waits longer


class Span(ParamType):
    """A span of time: 10, 1.5s, 500ms, 15m, 2h or 7d. It becomes a number of seconds."""

    name = "TIME"

    def __init__(self, least: float = 0.0, *, none: bool = False) -> None:
        self._least = least  # seconds
        self._none = none  # whether `none` is allowed, which becomes math.inf

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds. Raises click.BadParameter."""
        if isinstance(value, float):
            return value
        if self._none and value == "none":
            return math.inf
        match = _SPAN.fullmatch(str(value))
        if match is None:
            ending = ", or none" if self._none else ""
            self.fail(
                f"{str(value)[:80]!r} is not a time such as 500ms, 90s, 15m, 2h or 7d{ending}", param, ctx
            )
        seconds = float(match[1]) * _UNITS[match[2]]
        if not self._least <= seconds <= _LONGEST:
            self.fail(f"{value!r} is not between {self._least:g}s and 366d", param, ctx)
        return seconds


SPAN = Span()


def instance_id_option(help: str) -> Callable[[_F], _F]:
    """Give a command `--id HEX`, as an argument `instance_id`."""
    return click.option("--id", "instance_id", callback=_instance_id, metavar="HEX", help=help)


def _instance_id(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_id(value)
