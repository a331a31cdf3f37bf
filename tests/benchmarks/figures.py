"""Numbers of several runs: their median, their spread, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of several runs, the lowest and the highest of them."""

    median: float
    low: float
    high: float
    runs: int


def summarise(values: Sequence[float]) -> Figure:
    """Raises ValueError when there are none."""
    if not values:
        raise ValueError("no runs")
    return Figure(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def slower_by(other: Sequence[float], ours: Sequence[float], *, higher_is_better: bool = False) -> Figure:
    """How many times better ours is, run by run: both were measured in turn, so each has its partner.

    More than 1 is in our favour. Runs without a partner are left out. Raises ValueError when none has one.
    """
    pairs = [(o, u) for o, u in zip(other, ours, strict=False) if o > 0 and u > 0]
    return summarise([u / o if higher_is_better else o / u for o, u in pairs])


def shown(number: float) -> str:
    """Three digits, such as `0.123`, `12.3` or `1,230`."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    digits = 2 - math.floor(math.log10(abs(number)))
    rounded = round(number, digits)
    return f"{rounded:,.{max(0, min(digits, 4))}f}"


def with_spread(figure: Figure, unit: str = "") -> str:
    """Such as `12.3 ms (11.9 to 14.0)`."""
    text = shown(figure.median) + (f" {unit}" if unit else "")
    return text if figure.runs == 1 else f"{text} ({shown(figure.low)} to {shown(figure.high)})"
