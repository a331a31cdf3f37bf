"""Which signed values are too old to be believed: pure, time comes in as an argument.

Everybody who can read a signed value can write it again, with its signature. Times that the signer chose and
signed bound the use of that, and so does the memory of each reader.

Rules
1. A signature is valid until the end that it names, and `CLOCK_TOLERANCE` seconds longer.
2. Of one owner, each value was signed later than the one before. A reader that has seen one believes none
   that is older, and after a removal none that is as old.
3. Owners of one key compare by their clocks, which may differ by `CLOCK_TOLERANCE`.
4. Keys that were removed are remembered too, the last 10,000 of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from .signing import Signature, UntrustedError

__all__ = ["CLOCK_TOLERANCE", "History", "check_end", "is_older"]

# Seconds by which the clocks of two hosts may differ without harm. NTP keeps them within some milliseconds.
CLOCK_TOLERANCE = 60.0
_TOLERANCE_MS = int(CLOCK_TOLERANCE * 1000)
_MOST_GONE = 10_000


class _Seen(NamedTuple):
    owner: str
    time: int
    newest: int  # of all owners
    until: int


class History:
    """The signatures that one reader has seen."""

    def __init__(self) -> None:
        self._there: dict[str, _Seen] = {}
        self._gone: OrderedDict[str, _Seen] = OrderedDict()

    def put(self, key: str, signature: Signature, now: float) -> None:
        """Note that `key` has a value with this verified signature, at `now` (seconds since 1970).

        Raises UntrustedError when it is too old to be believed.
        """
        check_end(signature, now)
        seen = self._there.get(key)
        is_gone = seen is None
        if seen is None:
            seen = self._gone.get(key)
        newest = signature.time
        if seen is not None:
            if is_older(signature, seen.owner, seen.time, seen.newest, or_as_old=is_gone):
                raise UntrustedError(
                    "it was signed before the value that was there: a replay, or the clock of a host is wrong"
                )
            newest = max(newest, seen.newest)
            self._gone.pop(key, None)
        self._there[key] = _Seen(signature.owner, signature.time, newest, signature.until)

    def delete(self, key: str) -> None:
        """Note that `key` was removed."""
        seen = self._there.pop(key, None)
        if seen is not None:
            self._gone[key] = seen
            if len(self._gone) > _MOST_GONE:
                self._gone.popitem(last=False)

    def ended(self, now: float) -> list[str]:
        """Forget the keys whose signature is no longer valid at `now`, and return them."""
        keys = [key for key, seen in self._there.items() if _has_ended(seen.until, now)]
        for key in keys:
            self.delete(key)
        return keys


def check_end(signature: Signature, now: float) -> None:
    """Raise UntrustedError when `signature` is no longer valid at `now` (seconds since 1970)."""
    if _has_ended(signature.until, now):
        late = now - signature.until / 1000
        raise UntrustedError(
            f"its signature ended {late:.0f} s ago: a replay, or the clock of a host is wrong"
        )


def is_older(signature: Signature, owner: str, time: int, newest: int, *, or_as_old: bool = False) -> bool:
    """Return whether `signature` is older than the one that `owner` made at `time`.

    `newest` is the time of the latest one by any owner; `or_as_old` counts the same one as older.
    """
    if signature.owner == owner:
        return signature.time < time or (or_as_old and signature.time == time)
    return signature.time < newest - _TOLERANCE_MS


def _has_ended(until: int, now: float) -> bool:
    return until != 0 and until + _TOLERANCE_MS < now * 1000
