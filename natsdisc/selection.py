"""Values that users work out of a view's instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from .model import Instance, InstanceId

__all__ = ["Selection"]

_T = TypeVar("_T")


class _View(Protocol):
    @property
    def instances(self) -> tuple[Any, ...]: ...

    def get(self, id: InstanceId) -> Any: ...

    def __len__(self) -> int: ...

    def __contains__(self, item: object) -> bool: ...


class Selection(Mapping[InstanceId, _T], Generic[_T]):
    """A value of each instance, worked out once for each version of it. `View.select` makes one."""

    def __init__(self, view: _View, function: Callable[[Any], _T]) -> None:
        self._view = view
        self._function = function
        self._values: dict[InstanceId, tuple[Instance, _T]] = {}

    def __getitem__(self, id: InstanceId) -> _T:
        instance = self._view.get(id)
        if instance is None:
            self._values.pop(id, None)
            raise KeyError(id)
        self._forget_gone()
        known = self._values.get(id)
        if known is None or known[0] is not instance:
            known = self._values[id] = (instance, self._function(instance))
        return known[1]

    def __iter__(self) -> Iterator[InstanceId]:
        self._forget_gone()
        # A caller that awaits on the way may find that some are gone.
        return (instance.id for instance in self._view.instances if instance in self._view)

    def __len__(self) -> int:
        return len(self._view)

    def _forget_gone(self) -> None:
        if len(self._values) > len(self._view):
            self._values = {id: known for id, known in self._values.items() if id in self._view}
