"""The instances that a command was told to change: looked up first, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence

from natsdisc import Discovery
from natsdisc.model import Instance

from .failure import Failure
from .path import path_of
from .place import Place

__all__ = ["find"]


async def find(discovery: Discovery, places: Sequence[Place]) -> list[Instance]:
    """Return the instances at `places`, each once. Raises Failure when one of them has none."""
    found: dict[object, Instance] = {}
    for place in places:
        there = [one for one in await discovery.list(place.query) if _is_meant(one, place)]
        if not there:
            raise Failure(f"no {place.kind} is registered as {place.path}; natsdisc ls shows what is")
        found.update((one.id, one) for one in there)
    return list(found.values())


def _is_meant(instance: Instance, place: Place) -> bool:
    """Return whether `instance` is at `place`; a model card with a suffix is meant only by its whole path."""
    if place.instance_id is None:
        return place.holds(instance.id)
    return path_of(instance.id) == place.path
