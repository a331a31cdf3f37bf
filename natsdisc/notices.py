"""Log lines that others can cause any number of:

one a key, a limited number a minute, and a sum of the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from . import log

__all__ = ["Notices"]

_log = log.logger(__name__)

# A hostile writer must fill neither the log nor this memory.
_LINES_PER_PERIOD = 100
_PERIOD_SECONDS = 60.0
_KEYS_REMEMBERED = 1_000


class Notices:
    """A limit for one kind of log line. Every event is counted; not every event is a line.

    A key has one line until it is forgotten: the 1,000 last keys are remembered. With `repeats` a key may
    have any number. In either case at most 100 lines a minute are written, and one line that sums up what had
    none for that reason.
    """

    def __init__(self, what: str, time: Callable[[], float], *, repeats: bool = False) -> None:
        """`what` names the events in the sum, such as "values that cannot be read"; `time` is in seconds."""
        self._what = what
        self._time = time
        self._repeats = repeats
        self._keys: OrderedDict[object, None] = OrderedDict()
        self._began: float | None = None
        self._lines = 0
        self._left_out = 0
        self._last: object = None

    def allow(self, key: object) -> bool:
        """Return whether an event of `key` gets a line of its own.

        Write the sum of the last minute if it is due.
        """
        now = self._time()
        if self._began is None or now >= self._began + _PERIOD_SECONDS:
            self.sum_up()
            self._began, self._lines = now, 0
        if not self._repeats and key in self._keys:
            self._keys.move_to_end(key)
            return False
        if self._lines >= _LINES_PER_PERIOD:
            self._left_out += 1
            self._last = key
            return False
        self._lines += 1
        if not self._repeats:
            self._keys[key] = None
            if len(self._keys) > _KEYS_REMEMBERED:
                self._keys.popitem(last=False)
        return True

    def sum_up(self) -> None:
        """Write one line about what was left out since the last sum, if anything was."""
        if self._left_out:
            _log.warning(
                "%d more %s were not logged one by one; the last of them was %s",
                self._left_out,
                self._what,
                self._last,
                extra=log.fields("notices_left_out", count=self._left_out, what=self._what, last=self._last),
            )
            self._left_out = 0
