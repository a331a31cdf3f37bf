"""JSON values that cannot be changed: what instances hand out to every observer alike.

A `FrozenDict` is a dict and a `FrozenList` is a list: they compare equal to plain ones, `json` and `orjson`
write them, and every way of reading works at the usual speed. The methods that change them raise TypeError.
To change a value, take a plain copy: `dict(value)` copies the first level, `copy.deepcopy(value)` all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["EMPTY", "FrozenDict", "FrozenList", "FrozenOnRead", "freeze", "frozen_mapping"]


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError(
        "the JSON of an instance cannot be changed in place, because all observers share it; change a copy "
        "(copy.deepcopy makes a plain one) and hand that to Discovery.update"
    )


class FrozenDict(dict[str, Any]):
    """A JSON object that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        """Return a plain dict of the same values."""
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Return plain dicts and lists all the way down."""
        return {name: copy.deepcopy(value, memo) for name, value in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A JSON array that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        """Return a plain list of the same values."""
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        """Return plain dicts and lists all the way down."""
        return [copy.deepcopy(value, memo) for value in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


EMPTY = FrozenDict()
_FROZEN = (FrozenDict, FrozenList)


def freeze(value: Any) -> Any:
    """Return `value` with every dict and list in it replaced by one that cannot be changed.

    A value that is nested too deeply for JSON is returned as it is: `wire.dumps` refuses it.
    """
    kind = type(value)
    if kind is str or kind is int or kind in _FROZEN:
        return value
    try:
        return _freeze(value)
    except RecursionError:
        return value


def _freeze(value: Any) -> Any:
    if isinstance(value, _FROZEN):
        return value
    if isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, (dict, list, tuple)):
                return FrozenDict({name: _freeze(inner) for name, inner in value.items()})
        return FrozenDict(value)
    if isinstance(value, list):
        for inner in value:
            if isinstance(inner, (dict, list, tuple)):
                return FrozenList([_freeze(inner) for inner in value])
        return FrozenList(value)
    if type(value) is tuple:
        return tuple(map(_freeze, value))
    return value


def frozen_mapping(value: Mapping[str, Any]) -> FrozenDict:
    """Return a mapping's items as a FrozenDict."""
    if type(value) is FrozenDict:
        return value
    frozen = freeze(value if isinstance(value, dict) else dict(value))
    return frozen if isinstance(frozen, FrozenDict) else FrozenDict(frozen)


class FrozenOnRead:
    """A slot whose plain dict or list is frozen when it is first read.

    Values from the wire belong to nobody else, and most are never read. Freezing each one as it is decoded
    would double the time that a large registry takes.
    """

    __slots__ = ("_get", "_set")

    def __init__(self, slot: Any) -> None:
        self._get, self._set = slot.__get__, slot.__set__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = self._get(instance)
        if type(value) is dict or type(value) is list:
            value = freeze(value)
            self._set(instance, value)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        self._set(instance, value)
