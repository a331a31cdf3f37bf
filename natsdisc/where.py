"""The part of a query's instances that a user's function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from . import log
from .callbacks import check_callback
from .changes import Change
from .errors import InvalidValueError
from .model import Instance, Query, RemovalReason
from .notices import Notices
from .picture import Picture
from .stats import Counters

__all__ = ["Matches", "Matching", "Where", "checked_where"]

_log = log.logger(__name__)

_Instance = TypeVar("_Instance", bound=Instance)
# A user's function of an instance: whether it matches.
Where: TypeAlias = Callable[[_Instance], object]
# A user's function made safe: it never raises.
Matches: TypeAlias = Callable[[Instance], bool]


class Matching:
    """The instances of a picture that match, and the changes of these.

    An instance that stops matching is removed as `unmatched`, one that begins to match is added. The function
    is called once for each version of an instance.
    """

    def __init__(self, matches: Matches, all_instances: Picture) -> None:
        self._matches = matches
        self.picture = Picture()
        self.picture.synced = all_instances.synced
        for key, instance in all_instances.live.items():
            if matches(instance):
                self.picture.apply(Change(key, None, instance))

    def narrow(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Take over changes of all instances; return those of the matching ones."""
        narrowed = []
        for key, _, after, reason in changes:
            before = self.picture.live.get(key)
            if after is not None and not self._matches(after):
                after, reason = None, RemovalReason.UNMATCHED
            if before is not None or after is not None:
                change = Change(key, before, after, reason)
                self.picture.apply(change)
                narrowed.append(change)
        return narrowed


def checked_where(
    where: Callable[[Any], object] | None, query: Query, notices: Notices, stats: Counters
) -> Matches | None:
    """Return `where` as a function that never raises; an instance for which it raises does not match.

    The error is logged once a function and query, and counted. Raises InvalidValueError unless `where` is a
    plain function.
    """
    if where is None:
        return None
    check_callback("where", where)

    def matches(instance: Instance) -> bool:
        try:
            found = where(instance)
            if inspect.iscoroutine(found):
                found.close()
                raise InvalidValueError("it returned a coroutine that nothing awaits; give a plain function")
            return bool(found)
        except Exception as error:
            stats.task_failures += 1
            if notices.allow((str(query), where)):
                _log.exception(
                    "the where function %r of %s failed for %s, which therefore does not match: %r",
                    where,
                    query,
                    instance.id,
                    error,
                    extra=log.fields("where_failed", query=query, id=instance.id, error=repr(error)),
                )
            return False

    return matches
