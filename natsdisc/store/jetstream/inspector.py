"""Single messages of a bucket for tools: looked at, judged, given a lease, or ended."""

from __future__ import annotations

import random

from ...entry import BUCKETS
from ...errors import ConflictError
from ...model import Kind
from .admin import TOMBSTONE_TTL, Admin
from .at_once import some_at_once
from .audit import Oddity, Suspicion, judge_lease, judge_value
from .ghosts import Ghosts
from .messages import EXPECTED_SEQUENCE, TTL
from .stream_messages import StoredMessage

__all__ = ["Inspector"]

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

    async def last(self, name: str, key: str) -> StoredMessage | None:
        """Return the last message of `key` in the bucket `name`; None without one."""
        stream = self._admin.stream(name)
        return await stream.last_message(stream.subject_prefix + key)

    async def lease(self, name: str, key: str) -> StoredMessage | None:
        """Return the message in the place of the lease of `key`, if it is a lease."""
        stream = self._admin.stream(name)
        message = await stream.last_message(stream.lease_prefix + key)
        if message is None or judge_lease(message, stream.subject_prefix + key) is not None:
            return None
        return message

    async def lend(self, name: str, key: str, revision: int, ttl: float) -> None:
        """Lend `key`, which has no lease, one of `ttl` seconds; its owner's next renewal replaces it.

        Raises ConflictError when another revision, or a lease, is there.
        """
        stream = self._admin.stream(name)
        value = await self.last(name, key)
        if value is not None and value.sequence == revision:
            await stream.look()  # for the server's time
            if await Ghosts(self._admin.api, stream, TOMBSTONE_TTL).lend(value, ttl):
                return
        raise ConflictError(f"could not lend {key} in {name} a lease: it is no longer at revision {revision}")

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

        async def look(place: tuple[str, bool]) -> Oddity | None:
            key, in_lease_space = place
            subject, lease = stream.subject_prefix + key, stream.lease_prefix + key
            here = lease if in_lease_space else subject
            message = await stream.last_message(here)
            if message is None:
                if _REPLACEMENT not in key:
                    return None  # it ended meanwhile
                return Oddity(Suspicion.UNREADABLE, name, here, 0, "its name is no UTF-8")
            if in_lease_space:
                wrong = judge_lease(message, subject)
            else:
                wrong = judge_value(kind, key, message, lease)
            return Oddity(wrong[0], name, here, message.sequence, wrong[1]) if wrong is not None else None

        found = await some_at_once(look, chosen, slots=_AT_ONCE)
        return [one for one in found if one is not None], len(chosen), len(places)

    async def overwrite(self, oddity: Oddity) -> None:
        """End a schedule, or what lies in the place of a lease, if it is still the last message there.

        A message that ends by itself after a second takes its place. Raises ConflictError.
        """
        headers = {EXPECTED_SEQUENCE: str(oddity.revision), TTL: "1s"}
        await (await self._admin.api.publish(oddity.subject, b"", headers)).sequence()
