"""The instances of a picture in the order of their ids, kept up with its changes.

A read after many changes sorts everything. A read after each change costs that and a copy of the tuple.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from typing import TypeAlias

from .balance import is_draining
from .fold import Fold, few
from .model import SORT_KEYS, Instance, sort_key

__all__ = ["Order", "SortKey", "without"]

SortKey: TypeAlias = tuple[str, str, str, int, str]


class Order:
    """The instances of a picture, sorted; `follow` brings it up to date."""

    def __init__(self) -> None:
        self.instances: tuple[Instance, ...] = ()
        self.draining: set[SortKey] = set()
        self._version = -1

    def follow(self, picture: Fold) -> None:
        """Show what `picture` shows."""
        if self._version == picture.version:
            return
        changes = picture.since(self._version)
        if changes is None or len(changes) > few(len(self.instances)):
            self._begin(picture)
        else:
            instances = list(self.instances)
            for change in changes:
                known = change.before if change.after is None else change.after
                assert known is not None
                self._set(instances, sort_key(known), change.after)
            self.instances = tuple(instances)
        self._version = picture.version

    def _begin(self, picture: Fold) -> None:
        instances = list(picture.instances)
        for by in SORT_KEYS:
            instances.sort(key=by)
        self.instances = tuple(instances)
        self.draining = {sort_key(one) for one in instances if is_draining(one)}

    def _set(self, instances: list[Instance], key: SortKey, instance: Instance | None) -> None:
        at = bisect_left(instances, key, key=sort_key)
        known = int(at < len(instances) and sort_key(instances[at]) == key)
        instances[at : at + known] = [] if instance is None else [instance]
        if instance is not None and is_draining(instance):
            self.draining.add(key)
        else:
            self.draining.discard(key)


def without(instances: tuple[Instance, ...], left_out: Collection[SortKey]) -> tuple[Instance, ...]:
    """`instances`, which are sorted, but those with these keys."""
    if not left_out:
        return instances
    if len(left_out) > few(len(instances)):
        return tuple(one for one in instances if sort_key(one) not in left_out)
    rest = list(instances)
    for key in left_out:
        at = bisect_left(rest, key, key=sort_key)
        if at < len(rest) and sort_key(rest[at]) == key:
            del rest[at]
    return tuple(rest)
