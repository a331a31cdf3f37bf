"""Delays between tries."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["delays"]


def delays(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait, doubling up to `longest`, each drawn from its upper half so that crowds spread."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, keeps no secret)
        delay = min(delay * 2, longest)
