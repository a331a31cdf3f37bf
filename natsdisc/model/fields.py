"""JSON fields of specs and instances, which cannot be changed in place."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidValueError
from ..frozen import frozen_mapping

__all__ = ["freeze_mapping"]


def freeze_mapping(value: object, what: str) -> None:
    """Replace the mapping in the field `what` of `value` by one that cannot be changed."""
    mapping = getattr(value, what)
    if not isinstance(mapping, Mapping):
        raise InvalidValueError(f"{what} must be a mapping, not {type(mapping).__name__}")
    object.__setattr__(value, what, frozen_mapping(mapping))
