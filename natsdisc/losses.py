"""A guard against many instances that vanish at once: a view goes on picking among them for a while.

Leases of many instances that lapse together tell more about the registry, or about the way to it, than about
the instances. Rules, for one view:
1. An instance that `expired`, or is `missing`, is lost. One that comes back, or is unregistered, is not.
2. Known are the instances that are there, and those that were lost within 30 s.
3. The view panics when at least three are known, and more than `threshold` of them are lost.
4. While it panics, lost ones are remembered for 120 s, so that a registry has time to recover. It ends when
   so many came back, left or were replaced that rule 3 no longer holds, or when none is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import log
from .changes import Change
from .clock import Clock
from .model import Instance, Query, RemovalReason, sort_key
from .notices import Notices
from .picture import SortKey
from .stats import Counters

__all__ = ["Losses"]

_log = log.logger(__name__)

_WINDOW_S, _KEPT_IN_PANIC_S = 30.0, 120.0
_FEWEST_KNOWN = 3
_LOSSES = (RemovalReason.EXPIRED, RemovalReason.MISSING)


class Losses:
    """The instances that a view lost lately. `version` grows when the candidates may change."""

    def __init__(
        self, threshold: float, query: Query, *, clock: Clock, notices: Notices, stats: Counters
    ) -> None:
        """`threshold` is a share of the known instances; with 0 nothing is remembered."""
        self._threshold = threshold
        self._query = query
        self._clock = clock
        self._notices = notices
        self._stats = stats
        self._began = 0.0
        self._is_logged = False
        # With the time of the loss, in that order.
        self._lost: dict[str, tuple[float, Instance]] = {}
        self.panicking = False
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._lost)

    @property
    def instances(self) -> list[Instance]:
        """The lost instances, as they were when last seen."""
        return [instance for _, instance in self._lost.values()]

    def find(self, key: str) -> Instance | None:
        """Return the lost instance of `key`."""
        _, instance = self._lost.get(key, (0.0, None))
        return instance

    def keeps(self, change: Change) -> bool:
        """Return whether an instance that is removed by `change` counts as lost."""
        return self._threshold > 0 and change.reason in _LOSSES

    def changed(self, changes: Sequence[Change], there: int) -> None:
        """Take over changes, after which `there` instances are there."""
        if not self._threshold:
            return
        now = self._clock.time()
        for key, before, _, reason in changes:
            if reason in _LOSSES and before is not None:
                self._lost[key] = (now, before)
            else:
                self._lost.pop(key, None)
        if self._lost or self.panicking:
            self._decide(now, there)

    def left(self, key: str, there: int) -> None:
        """Take over that the owner of a lost `key` unregistered it."""
        if self._lost.pop(key, None) is not None:
            self._decide(self._clock.time(), there)

    def update(self, there: int, forget: Callable[[SortKey], None]) -> None:
        """Forget the losses that are too old, and call `forget` with each."""
        now = self._clock.time()
        kept = _KEPT_IN_PANIC_S if self.panicking else _WINDOW_S
        old = []
        for key, (lost_at, _) in self._lost.items():
            if lost_at + kept > now:
                break
            old.append(key)
        if old:
            for key in old:
                _, instance = self._lost.pop(key)
                forget(sort_key(instance))
            self._decide(now, there)

    def _decide(self, now: float, there: int) -> None:
        self.version += 1
        recent = len(self._lost)
        if not self.panicking:
            recent = sum(lost_at + _WINDOW_S > now for lost_at, _ in self._lost.values())
        known = there + recent
        panicking = known >= _FEWEST_KNOWN and recent > self._threshold * known
        if panicking == self.panicking:
            return
        self.panicking = panicking
        if panicking:
            self._began = now
            self._stats.panics += 1
            self._is_logged = self._notices.allow(self._query)
            if self._is_logged:
                _log.warning(
                    "%s lost %d of %d instances within %g s: its picks go on among the lost ones too",
                    self._query,
                    recent,
                    known,
                    _WINDOW_S,
                    extra=log.fields("panic_began", query=self._query, lost=recent, known=known),
                )
        elif self._is_logged:
            _log.info(
                "picks of %s are again among the instances that are there: %d, after %.1f s",
                self._query,
                there,
                now - self._began,
                extra=log.fields("panic_ended", query=self._query, there=there, seconds=now - self._began),
            )
