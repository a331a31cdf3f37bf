"""Single messages of a bucket for tools: looked at, judged, given a lease, or ended."""

from __future__ import annotations

import asyncio
import random

from ...entry import BUCKETS
from ...model import Kind
from .. import Lease
from .admin import Admin
from .audit import Oddity, Stored, Suspicion, judge_lease, judge_value, last_message
from .messages import EXPECTED_SEQUENCE, TTL

__all__ = ["LENDER", "Inspector"]

# Stands as the owner of a lease that `prune` wrote.
LENDER = "natsdisc-prune"
# More questions at once would only wait in the server's queue.
_AT_ONCE = 64
# JSON has this in place of a byte that is no UTF-8; the server does not say what the byte was.
_REPLACEMENT = "\ufffd"


class Inspector:
    """Looks at the messages of buckets through the connection of `admin`.

    Every call raises what `JetStreamApi.call` raises.
    """

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def last(self, name: str, key: str) -> Stored | None:
        """Return the last message of `key` in the bucket `name`; None without one."""
        stream = self._admin.stream(name)
        return await last_message(self._admin.api, stream, stream.subject_prefix + key)

    async def lease(self, name: str, key: str) -> Stored | None:
        """Return the message in the place of the lease of `key`, if it is a lease."""
        stream = self._admin.stream(name)
        message = await last_message(self._admin.api, stream, stream.lease_prefix + key)
        if message is None or judge_lease(message, stream.subject_prefix + key) is not None:
            return None
        return message

    async def lend(self, name: str, key: str, revision: int, ttl: float) -> None:
        """Write a lease of `ttl` seconds for `key`, fenced on `revision`; its owner's heartbeats renew it.

        Raises ConflictError when another revision is there.
        """
        [error] = await self._admin.store.bucket(name).renew([Lease(key, revision, ttl, LENDER)])
        if error is not None:
            raise error

    async def odd(self, kind: Kind, *, limit: int) -> tuple[list[Oddity], int, int]:
        """Return what no natsdisc registrar wrote, how many messages were looked at, and of how many.

        At most `limit` messages of the bucket are looked at; of more, a random choice.
        """
        name = BUCKETS[kind]
        stream = self._admin.stream(name)
        if not await stream.look():
            return [], 0, 0
        values, leases = await self._admin.keys(name), await self._admin.leases(name)
        places = [(key, False) for key in sorted(values)] + [(key, True) for key in sorted(leases)]
        chosen = places if len(places) <= limit else random.sample(places, limit)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def look(key: str, in_lease_space: bool) -> Oddity | None:
            subject, lease = stream.subject_prefix + key, stream.lease_prefix + key
            here = lease if in_lease_space else subject
            async with slots:
                message = await last_message(self._admin.api, stream, here)
            if message is None:
                if _REPLACEMENT not in key:
                    return None  # it ended meanwhile
                return Oddity(Suspicion.UNREADABLE, name, here, 0, "its name is no UTF-8")
            if in_lease_space:
                wrong = judge_lease(message, subject)
            else:
                wrong = judge_value(kind, key, message, lease)
            return Oddity(wrong[0], name, here, message.revision, wrong[1]) if wrong is not None else None

        found = await asyncio.gather(*(look(*place) for place in chosen))
        return [one for one in found if one is not None], len(chosen), len(places)

    async def overwrite(self, oddity: Oddity) -> None:
        """End a schedule, or what lies in the place of a lease, if it is still the last message there.

        A message that ends by itself after a second takes its place. Raises ConflictError.
        """
        headers = {EXPECTED_SEQUENCE: str(oddity.revision), TTL: "1s"}
        await (await self._admin.api.publish(oddity.subject, b"", headers)).sequence()
