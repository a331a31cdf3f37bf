"""The last values of a shared consumer, for the queries that join it later."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["KeptValues"]

# Values are kept by so many first tokens of their key (namespace, component and endpoint): so a query that
# joins does not look at those of all others.
_PLACE_TOKENS = 3


class KeptValues:
    """The last value of each key, by the place it belongs to."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, bytes]] = {}

    def update(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Keep these values instead of earlier ones."""
        for key, value in entries:
            self._places.setdefault(_place_of(key), {})[key] = value

    def remove(self, key: str) -> None:
        """Forget `key`, if it is there."""
        place = _place_of(key)
        values = self._places.get(place)
        if values is not None:
            values.pop(key, None)
            if not values:
                del self._places[place]

    def find(self, key: str) -> bytes | None:
        """Return the value of `key`, or None."""
        return self._places.get(_place_of(key), {}).get(key)

    def below(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return what lies below the tokens of `prefix`."""
        start = f"{prefix}." if prefix else ""
        if prefix.count(".") >= _PLACE_TOKENS - 1:
            places = [self._places.get(_place_of(prefix), {})]
        else:
            # A key of few tokens is its own place.
            places = [values for place, values in self._places.items() if f"{place}.".startswith(start)]
        return [entry for values in places for entry in values.items() if entry[0].startswith(start)]


def _place_of(key: str) -> str:
    return ".".join(key.split(".", _PLACE_TOKENS)[:_PLACE_TOKENS])
