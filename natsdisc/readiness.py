"""Whether a Discovery is well: the server answers, and what is watched and registered is in step with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .errors import DiscoveryError, NotReadyError
from .lease import State
from .model import Query
from .registration import Registration
from .store import Store

__all__ = ["Watched", "check"]

# Seconds between two looks at what is not well yet.
_LOOK_EVERY_S = 0.02


class Watched(Protocol):
    """A follower of a query, such as an Informer."""

    error: DiscoveryError | None

    @property
    def is_open(self) -> bool: ...

    @property
    def trouble(self) -> DiscoveryError | None: ...

    @property
    def picture(self) -> Any: ...


async def check(
    store: Store,
    registrations: Callable[[], Iterable[Registration]],
    watched: Callable[[], Iterable[tuple[Query, Watched]]],
    timeout: float,
) -> None:
    """Return when all is well; raise NotReadyError after `timeout` seconds.

    A condition that cannot become well by itself is raised as soon as the server has answered.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    reasons: list[str] = []
    try:
        await store.ping(timeout)
    except DiscoveryError as error:
        reasons.append(f"the server does not answer: {error}")
    while True:
        passing, lasting = _troubles(registrations(), watched())
        if not reasons and not passing and not lasting:
            return
        if reasons or lasting or loop.time() >= deadline:
            raise NotReadyError([*reasons, *lasting, *passing])
        await asyncio.sleep(_LOOK_EVERY_S)


def _troubles(
    registrations: Iterable[Registration], watched: Iterable[tuple[Query, Watched]]
) -> tuple[list[str], list[str]]:
    """Return what is not well and can pass, and what cannot."""
    passing: list[str] = []
    lasting: list[str] = []
    for registration in registrations:
        if registration.state is not State.ACTIVE:
            text = f"{registration.id} is {registration.state}"
            text += f": {registration.error}" if registration.error is not None else ""
            (lasting if registration.state in (State.LOST, State.FAILED) else passing).append(text)
    for query, one in watched:
        if not one.is_open:
            continue
        if one.trouble is not None:
            (lasting if one.error is not None else passing).append(f"{query} is stale: {one.trouble}")
        elif not one.picture.synced:
            passing.append(f"{query} has no first picture yet")
    return passing, lasting
