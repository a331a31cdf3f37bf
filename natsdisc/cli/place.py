"""Which instances are meant: paths as `watch`, `register` and `tree` print them, or names and an id."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import click

import natsdisc
from natsdisc import Discovery
from natsdisc.model import EndpointInstanceId, Instance, InstanceId, Kind, ModelCardInstanceId, Query
from natsdisc.safe import safe

from .failure import Failure
from .options import instance_id_option

__all__ = ["Place", "find", "places_arguments"]

_F = TypeVar("_F", bound=Callable[..., Any])
# A path as it is printed, or, where a path would be ambiguous, the id itself.
Place: TypeAlias = str | InstanceId
_NAMES = 4  # namespace, component, endpoint and id, when none of them holds a slash


def places_arguments(kinds: Sequence[Kind]) -> Callable[[_F], _F]:
    """Give a command `PATH...` or `NS COMPONENT ENDPOINT --id HEX`, as arguments `kind` and `places`."""

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def with_places(
            *args: Any,
            words: tuple[str, ...],
            instance_id: int | None,
            models: bool = False,
            suffix: str | None = None,
            **others: Any,
        ) -> Any:
            kind = Kind.MODEL if models else Kind.ENDPOINT
            if suffix is not None and (instance_id is None or not models):
                raise click.UsageError("--suffix belongs to --models and --id.")
            places: Sequence[Place] = (
                [_checked(path) for path in words]
                if instance_id is None
                else [_exact(kind, words, instance_id, suffix)]
            )
            return command(*args, kind=kind, places=places, **others)

        result: Any = instance_id_option("The id, when the arguments are NS COMPONENT ENDPOINT.")(with_places)
        if Kind.MODEL in kinds:
            result = click.option("--suffix", help="The suffix of the model card with that id.")(result)
            result = click.option("--models", is_flag=True, help="Model cards instead of endpoints.")(result)
        argument: Callable[[_F], _F] = click.argument("words", nargs=-1, required=True, metavar="PATH...")
        return argument(result)

    return decorate


async def find(discovery: Discovery, kind: Kind, places: Sequence[Place]) -> list[Instance]:
    """The instances at `places`. Raises Failure when one of them has none, or two.

    Names may hold slashes, so a path is not taken apart but compared with what there is.
    """
    found: list[Instance] = []
    for place in places:
        same = [one for one in await discovery.list(_query(kind, place)) if _is_at(one, place)]
        if not same:
            raise Failure(f"no {kind} is registered as {place}")
        if len(same) > 1:
            words = [f"{one.namespace!r} {one.component!r} {one.endpoint!r}" for one in same]
            raise Failure(f"{place} means {' and '.join(words)}: use NS COMPONENT ENDPOINT --id HEX")
        found += same
    return found


def _checked(path: str) -> str:
    names = path.split("/")
    if len(names) < _NAMES or (len(names) == _NAMES and not all(names)):
        raise click.UsageError(f"{path!r} is not a path: NS/COMPONENT/ENDPOINT/ID, as watch prints it.")
    return path


def _exact(kind: Kind, names: tuple[str, ...], instance_id: int, suffix: str | None) -> InstanceId:
    if len(names) != _NAMES - 1:
        raise click.UsageError("With --id the arguments are NS COMPONENT ENDPOINT.")
    namespace, component, endpoint = names
    if kind is Kind.ENDPOINT:
        return EndpointInstanceId(namespace, component, endpoint, instance_id)
    return ModelCardInstanceId(namespace, component, endpoint, instance_id, suffix)


def _is_at(instance: Instance, place: Place) -> bool:
    return safe(str(instance.id)) == place if isinstance(place, str) else instance.id == place


def _query(kind: Kind, place: Place) -> Query:
    """What to look through: one endpoint where the place leaves no doubt, which suits a confined user."""
    make = natsdisc.endpoints if kind is Kind.ENDPOINT else natsdisc.models
    if not isinstance(place, str):
        return make(place.namespace, place.component, place.endpoint)
    names = place.split("/")
    return make(*names[:3]) if len(names) == _NAMES else make()
