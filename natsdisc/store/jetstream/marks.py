"""Marks in the lease space of a bucket: they tell the processes of a fleet that one of them has swept.

A mark lies at `sweep` for the whole bucket, and at `<prefix>.sweep` for the keys below a prefix. Its fence
lets one process of many write it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

from ...errors import ConflictError, DiscoveryError
from .api import JetStreamApi
from .messages import EXPECTED_SEQUENCE, TTL
from .stream import Stream

__all__ = ["MARK", "Marks", "is_mark"]

# The last token of the subject of a mark. A key has more tokens.
MARK, _FEWEST_DOTS = "sweep", 3
_MARK_TTL = "1h"
# On a mark whose process could not sweep, and on one whose process lent leases and removed nothing.
_VOID, _LENT = "Natsdisc-Void", "Natsdisc-Lent"


class Marks:
    """The marks of sweeps in the bucket of `stream`."""

    def __init__(self, api: JetStreamApi, stream: Stream) -> None:
        self._api = api
        self._stream = stream

    async def claim(self, prefix: str, *, since: float, removes: bool) -> bool:
        """Leave a mark below `prefix`, unless another process left one after the moment `since`.

        `since` is a time of `time.monotonic`. A sweep that `removes` is not made unnecessary by one that
        only lent leases. Returns whether the mark is ours.

        Raises PermissionDeniedError, StoreUnavailableError.
        """
        subject = self._subject(prefix)
        last = await self._stream.last_message(subject)
        moment = self._stream.clock.read() - timedelta(seconds=time.monotonic() - since)
        if last is not None and last.stored > moment:
            did_less = _VOID in last.headers or (removes and _LENT in last.headers)
            if not did_less:
                return False
        headers = {EXPECTED_SEQUENCE: str(last.sequence if last is not None else 0), TTL: _MARK_TTL}
        if not removes:
            headers[_LENT] = "1"
        try:
            await (await self._api.publish(subject, b"", headers)).sequence()
        except ConflictError:
            return False
        return True

    async def void(self, prefix: str) -> None:
        """Take back a mark, if that is allowed, so that another process sweeps."""
        with suppress(DiscoveryError):
            headers = {_VOID: "1", TTL: _MARK_TTL}
            await (await self._api.publish(self._subject(prefix), b"", headers)).sequence()

    def _subject(self, prefix: str) -> str:
        return f"{self._stream.lease_prefix}{prefix}.{MARK}" if prefix else self._stream.lease_prefix + MARK


def is_mark(key: str) -> bool:
    """Return whether `key`, of a subject in the lease space, is the mark of a sweep and no lease."""
    return key.rpartition(".")[2] == MARK and key.count(".") < _FEWEST_DOTS
