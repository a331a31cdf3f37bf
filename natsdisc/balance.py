"""Choosing one instance of many. Every picker works on any sequence of instances.

A picker remembers its work for a tuple: give it the same tuple again (as a view does until something
changes) and a pick costs no more than the choice itself. Of a list, which may change, it remembers nothing.
"""

from __future__ import annotations

import copy
import itertools
import random
from bisect import bisect
from collections.abc import Sequence
from hashlib import blake2b
from operator import and_, attrgetter, mul
from typing import Any, Protocol, Self, TypeVar

from .errors import InvalidValueError, NoInstanceError
from .model import EndpointInstance, EndpointInstanceId, Instance, InstanceId, Status

__all__ = [
    "Balance",
    "LeastOutstanding",
    "PreferZone",
    "Random",
    "Rendezvous",
    "RoundRobin",
    "Weighted",
    "for_view",
    "is_draining",
    "weight_of",
    "zone_of",
]

# A weight above this counts as this, so that sums stay exact enough.
_MOST_WEIGHT = 1e9
# One below this counts as 0: a part of the smallest numbers may be rounded up to the whole.
_LEAST_WEIGHT = 1e-300
_64_BITS = 2**64 - 1

_Instance = TypeVar("_Instance", bound=Instance)


class Balance(Protocol):
    """Picks an instance. `started` and `finished` tell it of work in flight.

    One that also has a method `for_view()` is asked for a balance of each view's own. Use it when the state
    of a balance makes sense for one set of instances only, as the turn of a round robin does. Without the
    method all views that were given the same balance share it.
    """

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        """One of `instances`; raises NoInstanceError when there are none."""

    def started(self, id: InstanceId) -> None:
        """Work on `id` has begun."""

    def finished(self, id: InstanceId) -> None:
        """Work on `id` has ended."""


class _Stateless:
    def started(self, id: InstanceId) -> None:
        pass

    def finished(self, id: InstanceId) -> None:
        pass


class RoundRobin(_Stateless):
    """One after the other, beginning at a random place.

    Many new clients do not all begin at the same instance; `source` decides where. Each view that is given
    a RoundRobin takes turns of its own.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source or random.Random()  # noqa: S311 (spreads load)
        self._turn = itertools.count(self._source.getrandbits(32))

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        if not instances:
            raise _nobody()
        return instances[next(self._turn) % len(instances)]

    def for_view(self) -> Self:
        """Return a RoundRobin with turns of its own."""
        another = copy.copy(self)
        another._turn = itertools.count(self._source.getrandbits(32))
        return another


class Random(_Stateless):
    """Any one, all equally often."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = (source or random.Random()).random  # noqa: S311 (spreads load)

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        if not instances:
            raise _nobody()
        return instances[int(self._random() * len(instances))]


class LeastOutstanding:
    """Of two random ones, the one with less work in flight (see `View.using`)."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = (source or random.Random()).random  # noqa: S311 (spreads load)
        self._outstanding: dict[tuple[Any, ...], int] = {}

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        if not instances:
            raise _nobody()
        one = int(self._random() * len(instances))
        first = instances[one]
        if not self._outstanding or len(instances) == 1:
            return first
        other = int(self._random() * (len(instances) - 1))
        second = instances[other + (other >= one)]
        work = self._outstanding.get
        return second if work(_names(second), 0) < work(_names(first), 0) else first

    def started(self, id: InstanceId) -> None:
        names = _names(id)
        self._outstanding[names] = self._outstanding.get(names, 0) + 1

    def finished(self, id: InstanceId) -> None:
        names = _names(id)
        left = self._outstanding.get(names, 0) - 1
        if left > 0:
            self._outstanding[names] = left
        else:
            self._outstanding.pop(names, None)


class Weighted(_Stateless):
    """Any one, each as often as its metadata's `weight` says (1 without one, never with 0)."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = (source or random.Random()).random  # noqa: S311 (spreads load)
        self._instances: Sequence[Instance] | None = None
        self._limits: list[float] = []

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        if instances is not self._instances:
            self._instances = _to_remember(instances)
            self._limits = list(itertools.accumulate(map(weight_of, instances)))
        if not self._limits:
            raise _nobody()
        total = self._limits[-1]
        if total <= 0:  # all are 0: that is no preference
            return instances[int(self._random() * len(instances))]
        return instances[bisect(self._limits, self._random() * total)]

    def for_view(self) -> Self:
        """Return a Weighted that remembers the weights of one view's instances."""
        return copy.copy(self)


class Rendezvous:
    """The same instance for the same key, in every process (highest random weight).

    When one of n instances comes or goes, about 1/n of the keys move.
    """

    def __init__(self) -> None:
        self._instances: tuple[Instance, ...] = ()
        self._hashes: list[int] = []

    def pick(self, instances: Sequence[_Instance], key: str | bytes) -> _Instance:
        """The instance of `instances` for `key`; raises NoInstanceError when there are none."""
        hashes = self._hashes if instances is self._instances else self._hash_all(instances)
        if not hashes:
            raise _nobody()
        # 64 random bits times 64 others, modulo 2**64, are 64 random bits again; times an odd number two
        # different ones stay different. And none of these loops runs in Python.
        products = map(mul, hashes, itertools.repeat(_hash(key) | 1))
        scores = list(map(and_, products, itertools.repeat(_64_BITS)))
        return instances[scores.index(max(scores))]

    def _hash_all(self, instances: Sequence[Instance]) -> list[int]:
        """After a change most objects are those of before: only the others are worked out."""
        known = dict(zip(map(id, self._instances), self._hashes, strict=True))
        hashes = [known.get(id(one)) or _hash(str(one.id)) for one in instances]
        if isinstance(instances, tuple):
            self._instances, self._hashes = instances, hashes
        return hashes


class PreferZone:
    """Only instances whose metadata names `zone`, picked by `inside`; all of them when there are none."""

    def __init__(self, zone: str, inside: Balance | None = None) -> None:
        self._zone = zone
        self._inside: Balance = inside if inside is not None else RoundRobin()
        self._instances: Sequence[Instance] | None = None
        self._near: Sequence[Any] = ()

    def pick(self, instances: Sequence[_Instance]) -> _Instance:
        if instances is not self._instances:
            self._instances = _to_remember(instances)
            self._near = tuple(one for one in instances if zone_of(one) == self._zone) or instances
        near: Sequence[_Instance] = self._near
        return self._inside.pick(near)

    def for_view(self) -> Self:
        """Return a PreferZone for one view; `inside` is asked for one of its own too."""
        another = copy.copy(self)
        another._inside = for_view(self._inside)
        return another

    def started(self, id: InstanceId) -> None:
        self._inside.started(id)

    def finished(self, id: InstanceId) -> None:
        self._inside.finished(id)


def for_view(balance: Balance) -> Balance:
    """Return the balance that one view uses when it is given `balance`."""
    own = getattr(balance, "for_view", None)
    return own() if own is not None else balance


def weight_of(instance: Instance) -> float:
    """The `weight` in an instance's metadata; 1 when there is none that makes sense."""
    weight = _metadata(instance, "weight")
    if not isinstance(weight, (int, float)) or not weight >= 0:
        return 1.0
    return float(min(weight, _MOST_WEIGHT)) if weight >= _LEAST_WEIGHT else 0.0


def zone_of(instance: Instance) -> object:
    """The `zone` in an instance's metadata."""
    return _metadata(instance, "zone")


def is_draining(instance: Instance) -> bool:
    """Return whether an instance is about to leave: `instance.status` is `draining`."""
    return isinstance(instance, EndpointInstance) and instance.status is Status.DRAINING


def _to_remember(instances: Sequence[Instance]) -> Sequence[Instance] | None:
    return instances if isinstance(instances, tuple) else None


def _metadata(instance: Instance, name: str) -> object:
    metadata = getattr(instance, "metadata", None)
    return metadata.get(name) if metadata and isinstance(metadata, dict) else None


_names_of_endpoint = attrgetter("namespace", "component", "endpoint", "instance_id")
_names_of_card = attrgetter("namespace", "component", "endpoint", "instance_id", "model_suffix")

_names_of_event = attrgetter("scope", "topic", "instance_id")


def _names(one: Instance | InstanceId) -> tuple[Any, ...]:
    """Return the parts of an id: several times as fast to look up as the id, which Python code compares."""
    if isinstance(one, (EndpointInstance, EndpointInstanceId)):
        names = _names_of_endpoint
    else:
        names = _names_of_card if hasattr(one, "model_suffix") else _names_of_event
    found: tuple[Any, ...] = names(one)
    return found


def _hash(text: str | bytes) -> int:
    if not isinstance(text, (str, bytes)):
        raise InvalidValueError(f"a key must be a str or bytes, not {type(text).__name__}: {text!r:.80}")
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _nobody() -> NoInstanceError:
    return NoInstanceError("there is no instance to pick")
