"""Many queries of one bucket in one process, and few consumers on the server.

The first queries have a consumer each. When a namespace has as many as `own_consumers`, its further queries
share one with the filter `namespace.>`. When the bucket has twice as many consumers, further queries in any
namespace share one with the filter `>`. If this user is refused the wider filter, the narrower one is used,
and at last a consumer for each query.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from ... import log
from ...errors import DiscoveryError, PermissionDeniedError
from ...model import RemovalReason
from .. import Reader, ResyncReason, Sink
from .kept import KeptValues

__all__ = ["Hub", "OpenReader"]

_log = log.logger(__name__)
# A filter that was refused is tried again after this (seconds): rights can be given later, and the server
# logs each refusal.
_REFUSED_FOR_S = 300.0


class OpenReader(Protocol):
    """Opens a reader of the store for the keys below a token prefix."""

    def __call__(self, prefix: str, sink: Sink, *, granted: bool, patient: bool) -> Reader: ...


class Hub:
    """The watches of one bucket in one process, on consumers of their own or shared ones."""

    def __init__(self, open_reader: OpenReader, *, own_consumers: int) -> None:
        self._open_reader = open_reader
        self._own_limit = own_consumers
        self._own: Counter[str] = Counter()  # consumers of their own by namespace
        self._shared: dict[str, _Shared] = {}  # by prefix: a namespace, or "" for the whole bucket
        self._refused: dict[str, float] = {}  # prefix, and until when it is not tried (loop's clock)

    def watch(self, prefix: str, sink: Sink) -> Reader:
        """Report the keys below `prefix` to `sink` until the returned reader is closed."""
        member = _Member(self, prefix, sink)
        member.assign()
        return member

    def ask_again(self) -> None:
        """Forget what was refused: the connection is new, and so may be its rights."""
        self._refused.clear()

    def _place(self, prefix: str) -> str | None:
        """Return the prefix of the shared consumer that a query for `prefix` reads; None for its own."""
        namespace = prefix.partition(".")[0]
        consumers = self._own.total() + len(self._shared)
        wanted: list[str] = []
        if namespace and self._own[namespace] >= self._own_limit:
            wanted.append(namespace)
        if consumers >= 2 * self._own_limit:
            # A namespace that already has a shared consumer needs no wider one.
            wanted.append("") if namespace not in self._shared else wanted.insert(0, namespace)
        now = asyncio.get_running_loop().time()
        for place in wanted:
            if now >= self._refused.get(place, float("-inf")):
                return place
        return None

    def _refuse(self, shared: _Shared, error: DiscoveryError) -> None:
        """Move the queries of `shared` to narrower consumers: this user may not read so much."""
        self._refused[shared.prefix] = asyncio.get_running_loop().time() + _REFUSED_FOR_S
        self._forget(shared)
        _log.info(
            "a consumer for %s of this process's watches was refused (%s); they have narrower ones",
            f"{shared.prefix}.>" if shared.prefix else "all",
            error,
            extra=log.fields("shared_refused", prefix=shared.prefix, watches=len(shared), error=error),
        )
        for member in shared.members():
            member.assign()

    def _forget(self, shared: _Shared) -> None:
        if self._shared.get(shared.prefix) is shared:
            del self._shared[shared.prefix]


class _Member:
    """One query's watch, wherever it is read from."""

    def __init__(self, hub: Hub, prefix: str, sink: Sink) -> None:
        self.prefix, self.sink = prefix, sink
        self._hub = hub
        self._namespace = prefix.partition(".")[0]
        self._reader: Reader | None = None  # of its own
        self._shared: _Shared | None = None
        self._granted = False
        self._closed = False

    @property
    def age(self) -> float:
        source = self._reader if self._reader is not None else self._shared
        assert source is not None
        return source.age

    def assign(self) -> None:
        """Read from where the hub places it, now and after a refusal."""
        hub, self._shared = self._hub, None
        place = hub._place(self.prefix)
        if place is None:
            hub._own[self._namespace] += 1
            self._reader = hub._open_reader(self.prefix, self.sink, granted=self._granted, patient=True)
            return
        shared = hub._shared.get(place)
        if shared is None:
            shared = hub._shared[place] = _Shared(hub, place)
        self._shared = shared
        shared.join(self)

    def note_synced(self) -> None:
        """From now on a refusal is waited out, as by a reader of its own."""
        self._granted = True

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._shared is not None:
            await self._shared.leave(self)
        elif self._reader is not None:
            self._hub._own[self._namespace] -= 1
            await self._reader.aclose()


class _Shared:
    """One reader for many sinks: it remembers the last values, so that a sink can join at any time."""

    def __init__(self, hub: Hub, prefix: str) -> None:
        self.prefix = prefix
        self._hub = hub
        self._members: dict[str, dict[_Member, None]] = {}  # by their prefix
        self._joining: set[_Member] = set()
        self._values = KeptValues()
        self._fresh: KeptValues | None = None  # of the snapshot that is under way
        self._synced = False  # the values are the last snapshot's and what came since
        self._trouble: tuple[ResyncReason, DiscoveryError] | None = None
        self._failed: DiscoveryError | None = None
        self._reader = hub._open_reader(prefix, self, granted=False, patient=False)

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    def members(self) -> list[_Member]:
        """Every query that is read from here."""
        return list(itertools.chain.from_iterable(self._members.values()))

    @property
    def age(self) -> float:
        return self._reader.age

    def join(self, member: _Member) -> None:
        """Report to `member` too: what is known already in the next turn of the loop."""
        self._members.setdefault(member.prefix, {})[member] = None
        self._joining.add(member)
        asyncio.get_running_loop().call_soon(self._begin, member)

    async def leave(self, member: _Member) -> None:
        """Report no more to `member`; the last one takes the consumer along."""
        self._joining.discard(member)
        group = self._members.get(member.prefix, {})
        group.pop(member, None)
        if not group:
            self._members.pop(member.prefix, None)
        if not self._members:
            self._hub._forget(self)
            await self._reader.aclose()

    def _begin(self, member: _Member) -> None:
        """Bring `member` to where the others are."""
        if member not in self._joining:
            return  # it left, or a new snapshot has begun for all
        self._joining.discard(member)
        if self._failed is not None:
            member.sink.fail(self._failed)
            return
        if self._fresh is None and self._trouble is not None:
            member.sink.stale(*self._trouble)
        if self._fresh is None and (self._trouble is not None or not self._synced):
            return  # the next snapshot is for it too
        member.sink.begin()
        entries = (self._values if self._fresh is None else self._fresh).below(member.prefix)
        if entries:
            member.sink.put(entries)
        if self._fresh is None:
            member.sink.end()
            member.note_synced()

    def _each(self) -> list[_Member]:
        """Those who have been brought to where the others are."""
        return [member for member in self.members() if member not in self._joining]

    def _concerned(self, key: str) -> list[_Member]:
        """Those whose query has `key` below its prefix."""
        found: list[_Member] = list(self._members.get("", ()))
        at = key.find(".")
        while at >= 0:
            group = self._members.get(key[:at])
            if group:
                found += group
            at = key.find(".", at + 1)
        return [member for member in found if member not in self._joining] if self._joining else found

    # The sink of the shared reader.

    def recover(self) -> None:
        for member in self.members():
            member.sink.recover()

    def begin(self) -> None:
        self._fresh = KeptValues()
        self._joining.clear()  # this snapshot is for them too
        for member in self.members():
            member.sink.begin()

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        (self._values if self._fresh is None else self._fresh).update(entries)
        told: dict[_Member, list[tuple[str, bytes]]] = {}
        for entry in entries:
            for member in self._concerned(entry[0]):
                told.setdefault(member, []).append(entry)
        for member, mine in told.items():
            member.sink.put(mine)

    def delete(self, key: str, reason: RemovalReason) -> None:
        (self._values if self._fresh is None else self._fresh).remove(key)
        for member in self._concerned(key):
            member.sink.delete(key, reason)

    def keep(self, key: str) -> None:
        believed = self._values.find(key)
        if self._fresh is not None and believed is not None:
            self._fresh.update([(key, believed)])
        for member in self._concerned(key):
            member.sink.keep(key)

    def end(self) -> None:
        if self._fresh is not None:
            self._values, self._fresh = self._fresh, None
        self._synced, self._trouble = True, None
        for member in self._each():
            member.sink.end()
            member.note_synced()

    def stale(self, reason: ResyncReason, error: DiscoveryError) -> None:
        self._fresh, self._trouble = None, (reason, error)
        for member in self._each():
            member.sink.stale(reason, error)

    def fail(self, error: DiscoveryError) -> None:
        if isinstance(error, PermissionDeniedError):
            self._joining.clear()
            self._hub._refuse(self, error)
            return
        self._failed = error
        self._hub._forget(self)
        for member in self._each():
            member.sink.fail(error)
