"""The instances among which a view picks: by their status, without those set aside, and with lost ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from .changes import Change
from .ejection import Ejections
from .losses import Losses
from .model import SORT_KEYS, EventSourceInstance, Instance, ModelInstance, Status, Transport, sort_key
from .picture import Picture, SortKey, status_of, without

__all__ = ["Choice"]

_STATUS_RANK = {Status.SERVING: 0, Status.DRAINING: 1, Status.UNHEALTHY: 2}


class Choice:
    """The candidates of one view.

    Serving instances come before draining ones, and these before unhealthy ones. Instances that were set
    aside come last, and of these the lost ones. Disabled ones are no candidates.
    """

    def __init__(self, picture: Picture, ejections: Ejections, losses: Losses) -> None:
        self.picture = picture
        self.ejections = ejections
        self.losses = losses
        self._candidates: tuple[Instance, ...] = ()
        self._version = (-1, -1, -1)  # of the picture, the ejections and the losses

    def candidates(self) -> tuple[Any, ...]:
        """Return the instances to pick from: the same tuple until something changes."""
        ejections, losses = self.ejections, self.losses
        ejections.bring_back()
        if losses:
            losses.update(len(self.picture), ejections.forget)
        if not ejections.out and not losses.panicking:
            return self.picture.preferred
        version = (self.picture.version, ejections.version, losses.version)
        if version != self._version:
            found = () if losses.panicking else without(self.picture.preferred, ejections.out)
            self._candidates = found or self._best()
            self._version = version
        return self._candidates

    def others(self, tried: Sequence[Instance]) -> tuple[Any, ...]:
        """Return the best instances besides those that were `tried`, else those that failed longest ago."""
        self.ejections.bring_back()
        tried_keys = [sort_key(one) for one in tried]
        return self._best(tried_keys[:-1], tried_keys[-1:], retrying=True)

    def report_failure(self, key: str) -> None:
        """Set the instance of `key` aside, if it is there, or lost and still picked."""
        failed = self.picture.live.get(key)
        if failed is None and self.losses.panicking:
            failed = self.losses.find(key)
        if failed is not None:
            self.ejections.report(sort_key(failed))

    def changed(self, changes: Sequence[Change]) -> None:
        """Note losses; forget the failures of instances that left, came back, or moved to another place."""
        if self.ejections:
            for change in changes:
                before, after = change.before, change.after
                if before is None:
                    assert after is not None
                    self.ejections.forget(sort_key(after))  # of one that was lost
                elif self.losses.keeps(change):
                    continue  # it may be picked again, and those that failed come last
                # Any other update says nothing about the place that failed.
                elif after is None or _transport(before) != _transport(after):
                    self.ejections.forget(sort_key(before))
        self.losses.changed(changes, len(self.picture))

    def left(self, key: str) -> None:
        """Note that a lost instance was unregistered."""
        lost = self.losses.find(key)
        if lost is not None:
            self.ejections.forget(sort_key(lost))
            self.losses.left(key, len(self.picture))

    def describe(self) -> str:
        """Return what is there, for an error: "4 instances, 3 draining, 1 disabled, 2 set aside …"."""
        there = self.picture.instances
        self.ejections.bring_back()
        counts = Counter(map(status_of, there))
        parts = [f"{len(there)} instance{'' if len(there) == 1 else 's'}"]
        if len(counts) > 1 or Status.SERVING not in counts:
            parts += [f"{counts[status]} {status}" for status in Status if counts[status]]
        if self.ejections.out:
            parts.append(f"{len(self.ejections.out)} set aside after failures")
        if self.losses.panicking:
            parts.append(f"{len(self.losses.instances)} lost at once and still tried")
        return ", ".join(parts)

    def _best(
        self, tried: Collection[SortKey] = (), last: Collection[SortKey] = (), *, retrying: bool = False
    ) -> tuple[Instance, ...]:
        out, lost = self.ejections.out, set[SortKey]()
        instances = list(self.picture.instances)
        if self.losses.panicking:
            lost = {sort_key(one) for one in self.losses.instances}
            instances += self.losses.instances
            for by in SORT_KEYS:
                instances.sort(key=by)
        best: Any = None
        found: list[Instance] = []
        for one in instances:
            status = status_of(one)
            if status is Status.DISABLED:
                continue
            key = sort_key(one)
            is_out = key in out
            # An instance that is there is surer than a lost one, once something has failed.
            is_unsure = key in lost and (is_out or retrying)
            rank = ((key in tried) + 2 * (key in last), is_out, is_unsure, _STATUS_RANK[status])
            if best is None or rank < best:
                best, found = rank, [one]
            elif rank == best:
                found.append(one)
        return tuple(found)


def _transport(instance: Instance) -> Transport | None:
    return None if isinstance(instance, (ModelInstance, EventSourceInstance)) else instance.transport
