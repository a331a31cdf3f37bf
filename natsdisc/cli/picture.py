"""A place as it is now, for programs that are told of each change: `watch --exec` and `export`."""

from __future__ import annotations

from collections.abc import Callable

from natsdisc import View
from natsdisc.model import Instance

from .place import Place

__all__ = ["follow", "instances_in"]


async def follow(view: View[Instance], place: Place, tell: Callable[[tuple[Instance, ...]], object]) -> None:
    """Call `tell` with the instances in `place`, now and at each change, for ever.

    While the server is away nothing is told: the last picture stays. Raises what ends a view.
    """
    while True:
        version = view.version
        tell(instances_in(view.instances, place))
        await view.changed(version)


def instances_in(instances: tuple[Instance, ...], place: Place) -> tuple[Instance, ...]:
    """Return those of `instances` that are in `place`."""
    return tuple(one for one in instances if place.holds(one.id))
