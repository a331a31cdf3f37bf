"""`Discovery.stats()` for OpenTelemetry (extra `otel`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from ..discovery import Discovery
from ..measure import MEASURES, Measure

__all__ = ["instrument"]


def instrument(discovery: Discovery, meter: Meter | None = None) -> None:
    """Have `discovery` observed by `meter`, or by one of the global provider; once for a Discovery."""
    meter = meter if meter is not None else get_meter("natsdisc")
    for measure in MEASURES:
        create = meter.create_observable_counter if measure.grows else meter.create_observable_gauge
        create(f"natsdisc.{measure.name}", [_reader(discovery, measure)], measure.unit, measure.text)


def _reader(discovery: Discovery, measure: Measure) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(labels)) for labels, value in measure.read(discovery.stats())]

    return read
