"""The instances among which a view picks: without those that were set aside, or that drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .balance import is_draining
from .changes import Change
from .ejection import Ejections
from .model import EndpointInstance, Instance, Transport, sort_key
from .picture import Picture, without

__all__ = ["Choice"]


class Choice:
    """The candidates of one view."""

    def __init__(self, picture: Picture, ejections: Ejections) -> None:
        self.picture = picture
        self.ejections = ejections
        self._candidates: tuple[Instance, ...] = ()
        self._version = (-1, -1)  # of the picture and of the ejections

    def candidates(self) -> tuple[Any, ...]:
        """Return the instances to pick from: the same tuple until something changes."""
        ejections = self.ejections
        ejections.bring_back()
        if not ejections.out:
            return self.picture.preferred
        version = (self.picture.version, ejections.version)
        if version != self._version:
            out, everything = ejections.out, self.picture.instances
            self._candidates = without(self.picture.preferred, out) or without(everything, out) or everything
            self._version = version
        return self._candidates

    def changed(self, changes: Sequence[Change]) -> None:
        """Forget the failures of instances that are gone, or that moved to another place."""
        if not self.ejections:
            return
        for change in changes:
            before, after = change.before, change.after
            # Any other update says nothing about the place that failed.
            if before is not None and (after is None or _transport(before) != _transport(after)):
                self.ejections.forget(sort_key(before))

    def describe(self) -> str:
        """Return what is there, for an error: "3 instances, 1 draining, 1 set aside"."""
        there = self.picture.instances
        parts = [f"{len(there)} instance{'' if len(there) == 1 else 's'}"]
        self.ejections.bring_back()
        out = self.ejections.out
        draining = sum(is_draining(one) for one in there if sort_key(one) not in out)
        if there and draining + len(out) >= len(there):
            parts.append("all set aside or draining")
        else:
            parts += [f"{draining} draining"] if draining else []
            parts += [f"{len(out)} set aside"] if out else []
        return ", ".join(parts)


def _transport(instance: Instance) -> Transport | None:
    return instance.transport if isinstance(instance, EndpointInstance) else None
