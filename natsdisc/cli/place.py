"""The arguments that say which instances are meant: `shop cart checkout` or `shop/cart/checkout/1f`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

import natsdisc
from natsdisc.model import (
    EndpointQuery,
    EventChannelQuery,
    EventSourceQuery,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    ModelQuery,
    Query,
)

from .complete import complete_instances, complete_place
from .event_path import event_path, parse_event_path
from .options import instance_id_option
from .path import escaped, hex_id, joined, parse_id, parts_of

__all__ = ["Place", "new_place_arguments", "place_argument", "places_arguments"]

_F = TypeVar("_F", bound=Callable[..., Any])
_KIND_OPTIONS = {
    "models": Kind.MODEL,
    "event_channels": Kind.EVENT_CHANNEL,
    "event_sources": Kind.EVENT_SOURCE,
}
_NAMES = 3  # namespace, component and endpoint; an id and a model card's suffix may follow


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the registry: everything, what is below some names, or one instance."""

    query: Query
    instance_id: int | None = None
    suffix: str | None = None

    @property
    def kind(self) -> Kind:
        """Endpoints or model cards."""
        return self.query.kind

    def holds(self, id: InstanceId) -> bool:
        """Return whether the instance `id` is in it; without a suffix, those with any suffix are."""
        if not self.query.matches(id) or self.instance_id not in (None, id.instance_id):
            return False
        return self.suffix is None or (isinstance(id, ModelCardInstanceId) and id.model_suffix == self.suffix)

    @property
    def path(self) -> str:
        """The place as it is printed, or nothing for everything."""
        if isinstance(self.query, (EventChannelQuery, EventSourceQuery)):
            names = event_path(self.query.scope, self.query.topic)
        else:
            names = joined(self.query.names)
        if self.instance_id is None:
            return names
        suffix = "" if self.suffix is None else f"/{escaped(self.suffix)}"
        return f"{names}/{hex_id(self.instance_id)}{suffix}"

    def __str__(self) -> str:
        if self.instance_id is not None:
            return f"{self.kind} {self.path}"
        return f"{self.kind}s below {self.path}" if self.query.names else f"{self.kind}s"

    @property
    def title(self) -> str:
        """A short name for headings: endpoints/shop/cart."""
        return "/".join(filter(None, (f"{self.kind}s", self.path)))


def place_of(kind: Kind, words: Sequence[str]) -> Place:
    """Return the place that `words` mean. Raises click.UsageError, InvalidNameError."""
    parts = parts_of(words)
    if kind in (Kind.EVENT_CHANNEL, Kind.EVENT_SOURCE):
        scope, topic, id = parse_event_path(parts)
        events = natsdisc.event_channels if kind is Kind.EVENT_CHANNEL else natsdisc.event_sources
        return Place(events(scope, topic), None if id is None else parse_id(id))
    most = _NAMES + (1 if kind is Kind.ENDPOINT else 2)
    if len(parts) > most:
        raise click.UsageError(
            f"{'/'.join(words)!r} has {len(parts)} parts; a place has at most {most}: "
            f"NS/COMPONENT/ENDPOINT/ID{'/SUFFIX' if kind is Kind.MODEL else ''}. In a name, write / as %2F."
        )
    make = EndpointQuery if kind is Kind.ENDPOINT else ModelQuery
    query = make(*parts[:_NAMES])
    instance_id = parse_id(parts[_NAMES]) if len(parts) > _NAMES else None
    return Place(query, instance_id, parts[_NAMES + 1] if len(parts) > _NAMES + 1 else None)


def place_argument(*, kinds: bool = True) -> Callable[[_F], _F]:
    """Give a command `[PLACE] [--models]`, as one argument `place`; without `kinds` there is no --models."""

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def with_place(*args: Any, words: tuple[str, ...], **others: Any) -> Any:
            chosen = [kind for name, kind in _KIND_OPTIONS.items() if others.pop(name, False)]
            topic: str | None = others.pop("topic", None)
            if len(chosen) > 1:
                raise click.UsageError("--models, --event-channels and --event-sources exclude each other.")
            place = place_of(chosen[0] if chosen else Kind.ENDPOINT, words)
            if topic is not None:
                place = _with_topic(place, topic)
            return command(*args, place=place, **others)

        result: Any = with_place
        if kinds:
            result = click.option("--topic", help="Only this topic of the scope that PLACE is.")(result)
            for name, what in (("--event-sources", "event sources"), ("--event-channels", "event channels")):
                result = click.option(name, is_flag=True, help=f"Dynamo's {what}.")(result)
            result = _models_option(result)
        argument: Callable[[_F], _F] = click.argument(
            "words", nargs=-1, metavar="[PLACE]", shell_complete=complete_place
        )
        return argument(result)

    return decorate


def new_place_arguments(command: _F) -> _F:
    """Give a command `PLACE [--id HEX]`, as arguments `names` (three) and `instance_id` (or None)."""

    @functools.wraps(command)
    def with_place(*args: Any, words: tuple[str, ...], instance_id: int | None, **others: Any) -> Any:
        place = place_of(Kind.ENDPOINT, words)
        if len(place.query.names) < _NAMES:
            raise click.UsageError(f"{place.path!r} is not an endpoint: say NS/COMPONENT/ENDPOINT.")
        if None not in (place.instance_id, instance_id):
            raise click.UsageError("The id stands in the place already: leave --id away.")
        chosen = place.instance_id if instance_id is None else instance_id
        return command(*args, names=place.query.names, instance_id=chosen, **others)

    result: Any = instance_id_option("The instance id; it may stand in PLACE too.  [default: random]")(
        with_place
    )
    argument: Callable[[_F], _F] = click.argument(
        "words", nargs=-1, required=True, metavar="PLACE", shell_complete=complete_place
    )
    return argument(result)


def places_arguments(kinds: Sequence[Kind]) -> Callable[[_F], _F]:
    """Give a command `PLACE...` or `NS COMPONENT ENDPOINT [ID]`, as an argument `places`.

    Each place names an endpoint at least; without an id it means all instances of the endpoint.
    """

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
            if suffix is not None and (instance_id is None or not models):
                raise click.UsageError("--suffix belongs to --models and --id.")
            kind = Kind.MODEL if models else Kind.ENDPOINT
            if instance_id is not None:
                place = place_of(kind, words)
                if len(place.query.names) < _NAMES or place.instance_id is not None:
                    raise click.UsageError("With --id the place is NS/COMPONENT/ENDPOINT.")
                places = [Place(place.query, instance_id, suffix)]
            elif any("/" in word for word in words):
                places = [place_of(kind, [word]) for word in words]
            else:
                places = [place_of(kind, words)]
            for place in places:
                if len(place.query.names) < _NAMES:
                    raise click.UsageError(f"{place.path!r} is not NS/COMPONENT/ENDPOINT or an id below it.")
            return command(*args, places=places, **others)

        result: Any = instance_id_option("The id, where PLACE does not hold it.")(with_places)
        if Kind.MODEL in kinds:
            result = click.option("--suffix", help="The suffix of the model card with that id.")(result)
            result = _models_option(result)
        argument: Callable[[_F], _F] = click.argument(
            "words", nargs=-1, required=True, metavar="PLACE...", shell_complete=complete_instances
        )
        return argument(result)

    return decorate


def _with_topic(place: Place, topic: str) -> Place:
    query = place.query
    if not isinstance(query, (EventChannelQuery, EventSourceQuery)):
        raise click.UsageError("--topic belongs to --event-channels and --event-sources.")
    if query.topic is not None:
        raise click.UsageError("The topic stands in the place already: leave --topic away.")
    events = natsdisc.event_channels if isinstance(query, EventChannelQuery) else natsdisc.event_sources
    return Place(events(query.scope, topic))


def _models_option(command: _F) -> _F:
    return click.option("--models", is_flag=True, help="Model cards instead of endpoints.")(command)
