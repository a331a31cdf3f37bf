"""A cache that is told what happens in a bucket, and a reader of its changes: for the tests of both."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from natsdisc import entry
from natsdisc.cache import Cache
from natsdisc.changes import Change, PendingChanges
from natsdisc.keys import key_of
from natsdisc.model import Added, EndpointInstance, Instance, InstanceId, Kind, RemovalReason, Removed
from tests.strategies import Delete, Forge, Log, Message, Put, Wait, endpoint, put

UNREGISTERED, EXPIRED, MISSING = RemovalReason.UNREGISTERED, RemovalReason.EXPIRED, RemovalReason.MISSING
GRACE, PATIENCE = 1.0, 4.0
A, B = endpoint(1, "a"), endpoint(1, "b")
KEY = put(1).key
UNREGISTER, EXPIRE, FORGE = Delete(KEY, UNREGISTERED), Delete(KEY, EXPIRED), Forge(KEY)

decode = partial(entry.decode, Kind.ENDPOINT)


def added(instance: Instance, before: Instance | None = None) -> Change:
    return Change(key_of(instance.id), before, instance)


def removed(instance: Instance, reason: RemovalReason) -> Change:
    return Change(key_of(instance.id), instance, None, reason)


class Teller:
    """Tells a cache what happens in a bucket, and knows what the bucket holds."""

    def __init__(self) -> None:
        self.cache = Cache(decode, grace=GRACE, patience=PATIENCE)
        self.now = 0.0
        self.changes: list[Change] = []
        self.content: dict[str, Message] = {}

    def happen(self, *log: Message | Wait, told: bool = True, looking: bool = True) -> list[Change]:
        """Let this happen; the changes it led to. What is not `told` reached the bucket but not the cache."""
        before = len(self.changes)
        for what in log:
            if isinstance(what, Wait):
                self.now += what.seconds
                if looking:
                    self.changes += self.cache.advance(self.now)
                continue
            self.content.pop(what.key, None)
            self.content[what.key] = what  # in the order of the last writes, as a stream tells it
            if told:
                self._tell(what)
        return self.changes[before:]

    def snapshot(self, *, tombstones: bool = True, messages: int | None = None) -> list[Change]:
        """Tell what the bucket holds; with `messages` break off after so many."""
        before = len(self.changes)
        self.cache.begin()
        for what in list(self.content.values())[:messages]:
            if tombstones or not isinstance(what, Delete):
                self._tell(what)
        if messages is None:
            self.cache.end(self.now)
        return self.changes[before:]

    def run_out(self) -> None:
        """Let every grace and all patience run out."""
        self.happen(Wait(10 * GRACE))

    @property
    def picture(self) -> dict[InstanceId, Instance]:
        instances = list(self.cache.picture.live.values())
        picture = {instance.id: instance for instance in instances}
        assert len(picture) == len(instances)
        return picture

    def _tell(self, what: Message) -> None:
        match what:
            case Put(key, value):
                self.changes += self.cache.put([(key, value)], self.now)
            case Delete(key, reason):
                self.changes += self.cache.delete(key, reason, self.now)
            case Forge(key):
                self.cache.keep(key, self.now)


def told(log: Iterable[Message | Wait]) -> Teller:
    teller = Teller()
    teller.happen(*log)
    return teller


class Reader:
    """What somebody knows who applies events; it does not stand being told what it knows."""

    def __init__(self) -> None:
        self.knows: dict[InstanceId, Instance] = {}

    def look(self, pending: PendingChanges) -> None:
        match pending.pop():
            case Added(instance):
                assert self.knows.get(instance.id) != instance
                self.knows[instance.id] = instance
            case Removed(id, _, last):
                assert self.knows.pop(id) == last


def naive_picture(log: Log) -> dict[InstanceId, Instance]:
    """What is there when everything has run out: what a key's last message says, if it can be believed."""
    last = {what.key: what for what in log if not isinstance(what, Wait)}
    found = [what.instance for what in last.values() if isinstance(what, Put) and what.instance]
    return {instance.id: instance for instance in found}


def naive_changes(log: Log, key: str) -> list[Change]:
    """The changes of one key, by looking ahead: an absence counts if it lasts."""
    times, said = [], []
    now = 0.0
    for what in log:
        if isinstance(what, Wait):
            now += what.seconds
        elif what.key == key:
            times.append(now)
            said.append(what)
    times.append(float("inf"))
    changes: list[Change] = []
    live: EndpointInstance | None = None
    absent_since: float | None = None
    doubted_since: float | None = None
    reason = MISSING
    for what, at, until in zip(said, times, times[1:], strict=False):
        if isinstance(what, Put) and what.instance is not None:
            if what.instance != live:
                changes.append(added(what.instance, live))
            live, absent_since, doubted_since = what.instance, None, None
            continue
        if live is None:
            continue
        if isinstance(what, Delete):
            reason, doubted_since = what.reason, None
            absent_since = at if absent_since is None else absent_since
        elif absent_since is None:
            reason, doubted_since = MISSING, at if doubted_since is None else doubted_since
        ends = [] if absent_since is None else [absent_since + GRACE]
        ends += [] if doubted_since is None else [doubted_since + PATIENCE]
        if reason is UNREGISTERED or until >= min(ends):
            changes.append(removed(live, reason))
            live, absent_since, doubted_since = None, None, None
    return changes


def check_legal(changes: Iterable[Change]) -> None:
    """Removed only after Added; Added on a live id means a changed instance."""
    live: dict[str, Instance] = {}
    for change in changes:
        assert change.before == live.get(change.key)
        assert change.before != change.after
        if change.after is None:
            assert change.reason is not None
            del live[change.key]
        else:
            assert change.reason is None
            assert key_of(change.after.id) == change.key
            live[change.key] = change.after
