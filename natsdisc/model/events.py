"""The events of a watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeAlias

from .ids import InstanceId
from .kinds import InstanceT_co
from .names import RemovalReason

__all__ = ["Added", "Event", "Removed"]


@dataclass(frozen=True, slots=True)
class Added(Generic[InstanceT_co]):
    """An instance is there: new, or (for an id that was already added) changed."""

    instance: InstanceT_co


@dataclass(frozen=True, slots=True)
class Removed(Generic[InstanceT_co]):
    """An instance is gone; `last` is what it was when last seen."""

    id: InstanceId
    reason: RemovalReason
    last: InstanceT_co | None = field(default=None, compare=False)


Event: TypeAlias = Added | Removed
