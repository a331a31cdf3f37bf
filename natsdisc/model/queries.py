"""Queries: a place, or the beginning of one."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InvalidQueryError
from .ids import EventChannelInstanceId, EventSourceInstanceId, InstanceId, Scope, kind_of
from .names import Kind, check_name

__all__ = [
    "EndpointQuery",
    "EventChannelQuery",
    "EventSourceQuery",
    "ModelQuery",
    "Query",
    "endpoints",
    "event_channels",
    "event_sources",
    "models",
]


@dataclass(frozen=True, slots=True)
class Query:
    """A set of instances: all of a kind, or those below a namespace, component or endpoint.

    `endpoints(…)` and `models(…)` make one.
    """

    kind: Kind
    namespace: str | None = None
    component: str | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            raise InvalidQueryError(f"a query is for a Kind, not {self.kind!r}")
        if self.kind not in (Kind.ENDPOINT, Kind.MODEL):
            raise InvalidQueryError(f"a Query is for endpoints or models: use {self.kind}s(…)")
        hole: str | None = None
        for what in ("namespace", "component", "endpoint"):
            name = getattr(self, what)
            if name is None:
                hole = hole or what
            elif hole is not None:
                raise InvalidQueryError(f"a query with a {what} needs its {hole} too: {what}={name!r}")
            else:
                check_name(what, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are fixed, outermost first."""
        return tuple(n for n in (self.namespace, self.component, self.endpoint) if n is not None)

    def matches(self, id: InstanceId) -> bool:
        """Whether `id` is in the set."""
        place = (id.namespace, id.component, id.endpoint)
        return kind_of(id) is self.kind and place[: len(self.names)] == self.names

    def __str__(self) -> str:
        return "/".join((f"{self.kind}s", *self.names))


@dataclass(frozen=True, slots=True)
class EndpointQuery(Query):
    """A set of endpoints."""

    kind: Kind = field(default=Kind.ENDPOINT, init=False)


@dataclass(frozen=True, slots=True)
class ModelQuery(Query):
    """A set of model cards."""

    kind: Kind = field(default=Kind.MODEL, init=False)


@dataclass(frozen=True, slots=True)
class _EventQuery(Query):
    kind: Kind = field(default=Kind.EVENT_CHANNEL, init=False)
    namespace: str | None = field(default=None, init=False)
    component: str | None = field(default=None, init=False)
    endpoint: str | None = field(default=None, init=False)
    scope: Scope | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        if self.scope is None:
            if self.topic is not None:
                raise InvalidQueryError(
                    f"a query with a topic needs its scope too, because scopes match exactly: "
                    f"topic={self.topic!r:.80}"
                )
        elif not isinstance(self.scope, Scope):
            raise InvalidQueryError(f"scope must be a Scope, not {self.scope!r:.80}")
        elif self.topic is not None:
            check_name("topic", self.topic)

    @property
    def names(self) -> tuple[str, ...]:
        """The leading segments of the paths of this query."""
        if self.scope is None:
            return ()
        return (*self.scope.path, "topic", *(() if self.topic is None else (self.topic,)))

    def matches(self, id: InstanceId) -> bool:
        """Return whether `id` is in the set."""
        if not isinstance(id, (EventChannelInstanceId, EventSourceInstanceId)):
            return False
        same_scope = self.scope is None or id.scope == self.scope
        return kind_of(id) is self.kind and same_scope and self.topic in (None, id.topic)


@dataclass(frozen=True, slots=True)
class EventChannelQuery(_EventQuery):
    """A set of event channels."""

    kind: Kind = field(default=Kind.EVENT_CHANNEL, init=False)


@dataclass(frozen=True, slots=True)
class EventSourceQuery(_EventQuery):
    """A set of event sources."""

    kind: Kind = field(default=Kind.EVENT_SOURCE, init=False)


def event_channels(scope: Scope | None = None, topic: str | None = None) -> EventChannelQuery:
    """Return the query for all event channels, or those of exactly this scope, or of a topic in it.

    Raises InvalidQueryError for a topic without a scope. Example: `event_channels(Scope.namespace("shop"))`
    """
    return EventChannelQuery(scope, topic)


def event_sources(scope: Scope | None = None, topic: str | None = None) -> EventSourceQuery:
    """Return the query for all event sources, or those of exactly this scope, or of a topic in it.

    Raises InvalidQueryError for a topic without a scope. Example: `event_sources(Scope.namespace("shop"))`
    """
    return EventSourceQuery(scope, topic)


def endpoints(
    namespace: str | None = None, component: str | None = None, endpoint: str | None = None
) -> EndpointQuery:
    """All endpoint instances, or those of a namespace, component or endpoint."""
    return EndpointQuery(namespace, component, endpoint)


def models(
    namespace: str | None = None, component: str | None = None, endpoint: str | None = None
) -> ModelQuery:
    """All model cards, or those of a namespace, component or endpoint."""
    return ModelQuery(namespace, component, endpoint)
