"""The places of a registry that have instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from . import keys
from .model import Kind
from .store import UNTRUSTED

__all__ = ["Service", "count_services"]


class Service(NamedTuple):
    """A place, and the number of instances that are registered there."""

    namespace: str
    component: str
    endpoint: str
    instances: int


def count_services(kind: Kind, values: Mapping[str, bytes]) -> list[Service]:
    """Return the places of the keys in `values`, sorted; values that are not believed do not count.

    Only keys are looked at: decoding the values would take most of the time.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for key, value in values.items():
        place = keys.place_of(kind, key)
        if place is not None and value is not UNTRUSTED:
            counts[place[:3]] += 1
    return [Service(*place, count) for place, count in sorted(counts.items())]
