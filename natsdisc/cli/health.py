"""Health checks of `natsdisc register`: their options, and a check of all probes together."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from natsdisc import Transport

from .failure import Failure
from .options import Span
from .probes import Probe, ProbeFailedError, exec_probe, http_probe, port_probe, tcp_probe

__all__ = ["Health", "health_options", "port_health"]

_F = TypeVar("_F", bound=Callable[..., Any])
# A service that starts is looked at often (seconds), whatever the interval is.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_MAKERS: dict[str, Callable[[str], Probe]] = {
    "check_http": http_probe,
    "check_tcp": tcp_probe,
    "check_exec": exec_probe,
}


@dataclass(frozen=True, slots=True)
class Times:
    """When to check: seconds between two checks, seconds for one, and results in a row for a verdict."""

    interval: float = 5.0
    timeout: float = 2.0
    failures: int = 1
    successes: int = 1


class Health:
    """The probes of a service; `Discovery.register` makes a status of their results."""

    def __init__(self, probes: Sequence[Probe], times: Times) -> None:
        self.times = times
        self.reason = ""  # of the last check that failed
        self._probes = probes

    async def passes(self) -> bool:
        """Return whether all probes succeed within the timeout; `reason` says which did not."""
        try:
            async with asyncio.timeout(self.times.timeout):
                await asyncio.gather(*(probe() for probe in self._probes))
        except TimeoutError:
            self.reason = f"no answer within {self.times.timeout:g} s"
            return False
        except ProbeFailedError as error:
            self.reason = str(error)
            return False
        return True

    async def until_ready(self, patience: float) -> None:
        """Wait until a check succeeds, `patience` seconds at most. Raises Failure when none does."""
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(patience):
                while not await self.passes():
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            raise Failure(
                f"the service was not ready within {patience:g} s, so it was not registered: "
                f"{self.reason or 'no answer'}; --ready-timeout allows more, and 0 does not wait"
            ) from None


def port_health(transport: Transport) -> Health | None:
    """Return a check of the port in `transport`, for a program that was just started."""
    probe = port_probe(transport)
    return None if probe is None else Health([probe], Times())


def health_options(command: _F) -> _F:
    """Give a command the options of health checks, as an argument `health`: a Health, or None."""

    @functools.wraps(command)
    def with_health(
        *args: Any,
        check_interval: float,
        check_timeout: float,
        check_failures: int,
        check_successes: int,
        **others: Any,
    ) -> Any:
        probes = [maker(text) for name, maker in _MAKERS.items() for text in others.pop(name)]
        source = click.get_current_context().get_parameter_source("check_timeout")
        if source is ParameterSource.DEFAULT:
            check_timeout = min(check_timeout, check_interval)
        if check_timeout > check_interval:
            raise click.UsageError("--check-timeout must not be longer than --check-interval.")
        times = Times(check_interval, check_timeout, check_failures, check_successes)
        return command(*args, health=Health(probes, times) if probes else None, **others)

    result: Any = with_health
    for option in reversed(_OPTIONS):
        result = option(result)
    return result  # type: ignore[no-any-return]


_OPTIONS = (
    click.option(
        "--check-http",
        multiple=True,
        metavar="URL",
        help="Check the service with GET URL: 200 to 399 is healthy. All --check options may be repeated; "
        "every check must succeed.",
    ),
    click.option(
        "--check-tcp", multiple=True, metavar="HOST:PORT", help="Check that this port accepts a connection."
    ),
    click.option(
        "--check-exec",
        multiple=True,
        metavar="COMMAND",
        help="Check with a command: exit code 0 is healthy. It runs without a shell and without credentials.",
    ),
    click.option(
        "--check-interval", type=Span(0.1), default="5s", show_default=True, help="Time between two checks."
    ),
    click.option(
        "--check-timeout",
        type=Span(0.05),
        default="2s",
        show_default=True,
        help="Time after which a check has failed.",
    ),
    click.option(
        "--check-failures",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Failed checks in a row that make it unhealthy.",
    ),
    click.option(
        "--check-successes",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Successful checks in a row that make it serving again.",
    ),
)
