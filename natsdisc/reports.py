"""Changes of state, as the log and the callbacks hear of them: one line for hundreds that share a fate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from .errors import ClosedError
from .events import emit
from .lease import State
from .model import InstanceId
from .registration import Registration
from .stats import Counters
from .store import Found

__all__ = ["FOUND", "OnChange", "Reports"]

OnChange: TypeAlias = Callable[[Registration], object]

# Seconds in which registrations of the same fate are gathered, and after a line until the next of its kind.
_GATHER_S, _QUIET_S = 0.5, 5.0
# The events of registrations that had to be made again, by what was found in their place.
FOUND = {
    Found.EXPIRED: "reregistered_expired",
    Found.REMOVED: "reregistered_removed",
    Found.OVERWRITTEN: "reregistered_overwritten",
    Found.MISSING: "reregistered_missing",
}
# The end of a condition is told after its beginning.
_BEGINNINGS = {"active_again": ("recovering", "unrenewable"), "announced": ("pending",)}


class Reports:
    """Tells of changes of state, in the log and to the user's callbacks."""

    def __init__(self, stats: Counters, on_lost: OnChange | None, on_state: OnChange | None) -> None:
        self._stats = stats
        self._on_lost, self._on_state = on_lost, on_state
        self._gathered: dict[str, tuple[int, InstanceId, object]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._not_before: dict[str, float] = {}

    def tell(self, registration: Registration, *, logged: bool = False) -> None:
        """Tell of the state of `registration`, if it is another than was told last.

        With `logged`, the log has a line about it already.
        """
        state, before = registration.state, registration._told
        if state is State.PENDING and registration.error is not None and not registration._is_logged:
            registration._is_logged = True
            self.note("pending", registration.id, registration.error)
        if state is before or not registration._is_held:
            return
        registration._told = state
        self._log(registration, before, logged)
        self._call("on_state", self._on_state, registration)
        if state is State.LOST:
            self._call("on_lost", self._on_lost, registration)

    def _log(self, registration: Registration, before: State, logged: bool) -> None:
        state, id, error = registration.state, registration.id, registration.error
        if state is State.RECOVERING and not logged:
            registration._is_logged = True
            self.note("unrenewable" if isinstance(error, ClosedError) else "recovering", id, error)
        elif state is State.ACTIVE and registration._is_logged:
            registration._is_logged = False
            self.note("announced" if before is State.PENDING else "active_again", id)
        elif state is State.LOST:
            emit("lost", id=id)
        elif state is State.FAILED:
            emit("failed", id=id, error=error)

    def _call(self, name: str, callback: OnChange | None, registration: Registration) -> None:
        if callback is None:
            return
        try:
            callback(registration)
        except Exception as error:
            self._stats.task_failures += 1
            emit("callback_failed", exc_info=error, id=registration.id, callback=name, error=repr(error))

    def note(self, event: str, id: InstanceId, error: object = "") -> None:
        """Have the line of `event` written for `id` soon, together with the others of the next moments."""
        count, first, _ = self._gathered.get(event, (0, id, error))
        self._gathered[event] = count + 1, first, error
        if event not in self._timers:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + _GATHER_S, self._not_before.get(event, 0.0))
            self._timers[event] = loop.call_at(at, self._write, event)

    def flush(self) -> None:
        """Write what was gathered."""
        for event, timer in list(self._timers.items()):
            timer.cancel()
            if event in self._timers:
                self._write(event)

    def _write(self, event: str) -> None:
        for earlier in _BEGINNINGS.get(event, ()):
            if earlier in self._timers:
                self._timers[earlier].cancel()
                self._write(earlier)
        self._not_before[event] = asyncio.get_running_loop().time() + _QUIET_S
        del self._timers[event]
        count, id, error = self._gathered.pop(event)
        if error:
            emit(event, id=id, count=count, error=error)
        else:
            emit(event, id=id, count=count)
