"""The facade: one process's view of the registry, and its own place in it."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast, overload

from . import entry, keys, log, wire
from .balance import Balance
from .errors import (
    AlreadyRegisteredError,
    ClosedError,
    ConflictError,
    DiscoveryError,
    InvalidValueError,
)
from .lease import State
from .model import (
    MAX_INSTANCE_ID,
    SORT_KEYS,
    EndpointInstance,
    EndpointInstanceId,
    EndpointQuery,
    EndpointSpec,
    Instance,
    InstanceId,
    Kind,
    ModelCardInstanceId,
    ModelInstance,
    ModelQuery,
    ModelSpec,
    Query,
    Spec,
    Transport,
    check_instance_id,
    kind_of,
)
from .registrar import Registrar, Registration
from .stats import Counters, Picture, Stats
from .store import Bucket, EntryExistsError, Store
from .store.jetstream import JetStreamStore
from .store.snapshot import read
from .view import View
from .watch import Feed, Follower, Watch

__all__ = ["Connecting", "Discovery", "connect"]

_log = log.logger(__name__)
_T = TypeVar("_T")
_InstanceT = TypeVar("_InstanceT", bound=Instance)

# A server that is away must not keep a process from ending.
_CLOSE_TIMEOUT = 2.0
# As long as the stores try to get an answer.
_LIST_TIMEOUT = 6.0
# Instances that are worked on before others may use the loop: some milliseconds.
_TURN = 1_000
# The server keeps schedules in whole seconds and tombstones expire no faster (ADR-43).
_MIN_LEASE_TTL = 1.0
# Keys that were warned about; hostile data must not fill the log, nor this.
_WARNINGS_KEPT = 10_000


class _Unset:
    """The mark of an argument that was not given, where None means something."""


_UNSET = _Unset()


class Discovery:
    """Registers instances, lists them, and watches them come and go.

    Use it as `async with`, or call `close`. `lease_ttl` (seconds, or None for no lease) is how long an
    instance outlives its process; `expiry_grace` (seconds) is how long an expiry is kept back, in case the
    owner is back at once; `on_lost` is called with a Registration whose id another owner took.
    """

    def __init__(
        self,
        store: Store,
        *,
        instance_id: int | None = None,
        lease_ttl: float | None = 10.0,
        expiry_grace: float = 1.0,
        on_lost: Callable[[Registration], object] | None = None,
    ) -> None:
        _check_options(instance_id, lease_ttl, expiry_grace)
        self._store = store
        self._instance_id = secrets.randbelow(MAX_INSTANCE_ID + 1) if instance_id is None else instance_id
        self._lease_ttl = lease_ttl
        self._grace = expiry_grace
        self._stats = Counters()
        self._registrar = Registrar(store, self._stats, on_lost)
        self._feeds: dict[Query, Feed] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._warned: set[tuple[Kind, str]] = set()
        self._closed = False
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None
        store.attach()

    @property
    def instance_id(self) -> int:
        """This process's id, an unsigned 64-bit integer."""
        return self._instance_id

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """What this process holds, each with its state."""
        return self._registrar.registrations

    def stats(self) -> Stats:
        """The counters, and what is seen and held, as they are now; any thread may ask."""
        states = Counter(registration.state for registration in self.registrations)
        return self._stats.snapshot(
            {
                query: Picture(len(feed.picture), feed.picture.synced, feed.age)
                for query, feed in tuple(self._feeds.items())
                if feed.is_open
            },
            {str(state): states[state] for state in State},
        )

    @overload
    async def register(
        self, spec: EndpointSpec, *, lease_ttl: float | _Unset | None = ...
    ) -> EndpointInstance: ...

    @overload
    async def register(self, spec: ModelSpec, *, lease_ttl: float | _Unset | None = ...) -> ModelInstance: ...

    async def register(self, spec: Spec, *, lease_ttl: float | _Unset | None = _UNSET) -> Instance:
        """Put an instance into the registry until it is unregistered, or this process dies.

        The same spec again returns the same instance. Cancelled, it takes back what it had begun.
        Raises AlreadyRegisteredError, InvalidNameError, InvalidValueError, PayloadTooLargeError,
        UnsupportedServerError, PermissionDeniedError, StoreUnavailableError, ClosedError.
        """
        self._check_open()
        if not isinstance(spec, (EndpointSpec, ModelSpec)):
            raise InvalidValueError(
                f"register takes an EndpointSpec or a ModelSpec, not {type(spec).__name__}"
            )
        ttl = self._lease_ttl if isinstance(lease_ttl, _Unset) else _checked_ttl(lease_ttl)
        instance = spec.with_instance_id(self._instance_id)
        key, value = keys.key_of(instance.id), wire.dumps(instance)
        # What the others will read: JSON has no tuples.
        instance = wire.loads(value)
        work = self._start(self._register(key, value, instance, ttl))
        try:
            registration = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._check_cancelled_by_caller(work)
            await self._take_back(work)
            raise
        return registration.instance

    async def unregister(self, instance: Instance | InstanceId) -> None:
        """Take an instance out of the registry; one that is not there is already unregistered.

        Raises PermissionDeniedError, StoreUnavailableError, ClosedError.
        """
        self._check_open()
        id = instance.id if isinstance(instance, (EndpointInstance, ModelInstance)) else instance
        if not isinstance(id, (EndpointInstanceId, ModelCardInstanceId)):
            raise InvalidValueError(f"unregister takes an instance or its id, not {type(id).__name__}")
        key = keys.key_of(id)
        if self._registrar.find(id) is not None:
            await self._finish(self._registrar.unregister(id))
        else:
            await self._finish(self._bucket(id).delete(key, revision=None))

    async def update(
        self,
        instance: _InstanceT,
        *,
        transport: Transport | _Unset = _UNSET,
        metadata: dict[str, Any] | _Unset = _UNSET,
        card: Any = _UNSET,
    ) -> _InstanceT:
        """Change what is registered, if nobody else changed it first; watchers get an Added.

        For an instance of another process, `instance` must be what is registered now.
        Raises ConflictError, InvalidValueError, PayloadTooLargeError, PermissionDeniedError,
        StoreUnavailableError, ClosedError.
        """
        self._check_open()
        if not isinstance(instance, (EndpointInstance, ModelInstance)):
            raise InvalidValueError(f"update takes an instance, not {type(instance).__name__}")
        given = {"transport": transport, "metadata": metadata, "card": card}
        changes = {name: value for name, value in given.items() if not isinstance(value, _Unset)}
        registration = self._registrar.find(instance.id)
        current = registration.instance if registration is not None else instance
        fields = {field.name for field in dataclasses.fields(current)}
        if not changes.keys() <= fields:
            raise InvalidValueError(f"{current.id} has no {', '.join(sorted(changes.keys() - fields))}")
        value = wire.dumps(dataclasses.replace(current, **changes))
        changed = wire.loads(value)
        if registration is not None:
            await self._finish(self._registrar.replace(registration, value, changed))
        else:
            await self._finish(self._replace(instance, value))
        return cast(_InstanceT, changed)

    @overload
    async def list(self, query: EndpointQuery) -> builtins.list[EndpointInstance]: ...

    @overload
    async def list(self, query: ModelQuery) -> builtins.list[ModelInstance]: ...

    @overload
    async def list(self, query: Query) -> builtins.list[Instance]: ...

    async def list(self, query: Query) -> builtins.list[Any]:
        """The instances of `query` now, sorted by id; none when nothing was ever registered.

        Raises UnsupportedServerError, PermissionDeniedError, StoreUnavailableError, ClosedError.
        """
        self._check_open()
        _check_query(query)
        bucket = self._store.bucket(entry.BUCKETS[query.kind])
        values = await read(bucket, keys.prefix_of(query), query, timeout=_LIST_TIMEOUT)
        decode = self._decoder(query.kind)
        instances: builtins.list[Instance] = []
        for number, (key, value) in enumerate(values.items(), 1):
            with suppress(InvalidValueError):
                instances.append(decode(key, value))
            if number % _TURN == 0:
                await asyncio.sleep(0)
        for by in SORT_KEYS:
            instances.sort(key=by)
            if len(instances) > _TURN:
                await asyncio.sleep(0)
        return instances

    def list_and_watch(self, query: Query) -> Watch:
        """The instances of `query` as Added, and then every change, until it is closed.

        Guarantees
        1. Every live instance comes first as Added; then the watch is synced.
        2. Per id, Removed comes only after Added; Added again on a live id means that it changed.
        3. There is no order across ids.
        4. Intermediate states may be skipped, the last one never is.
        5. A view of the same query changes before the event is read.
        6. After anything that may have cost a message the difference is reported, missed removals too.
        7. A failure that cannot be repaired raises; only a close ends the watch quietly.

        Raises ClosedError; the watch raises UnsupportedServerError, PermissionDeniedError,
        StoreUnavailableError (no JetStream), ClosedError (the connection was closed).
        """
        self._check_open()
        _check_query(query)
        keys.prefix_of(query)
        return Watch(lambda: self._join(query), self._release, self._stats)

    @overload
    def view(self, query: EndpointQuery, *, balance: Balance | None = ...) -> View[EndpointInstance]: ...

    @overload
    def view(self, query: ModelQuery, *, balance: Balance | None = ...) -> View[ModelInstance]: ...

    @overload
    def view(self, query: Query, *, balance: Balance | None = ...) -> View[Instance]: ...

    def view(self, query: Query, *, balance: Balance | None = None) -> View[Any]:
        """A picture of `query` that follows the registry, picking by `balance` (round robin by default).

        Raises ClosedError.
        """
        self._check_open()
        _check_query(query)
        return View(query, self._join(query), self._release, balance, self._store.clock)

    async def drain(self, instance: EndpointInstance) -> EndpointInstance:
        """Mark an endpoint, so that pickers leave it out while it still serves.

        Raises what `update` does; a model card has no such mark.
        """
        if not isinstance(instance, EndpointInstance):
            raise InvalidValueError(f"only endpoints can be drained, not {type(instance).__name__}")
        held = self._registrar.find(instance.id)
        current = held.instance if held is not None else instance
        assert isinstance(current, EndpointInstance)
        return await self.update(instance, metadata={**current.metadata, "draining": True})

    async def close(self, *, drain: float = 0.0) -> None:
        """End the watches, unregister everything this process registered, and let go of the connection.

        With `drain`, mark our endpoints first, and go on serving for so many seconds.
        Takes about two seconds at most when the server is away: leases then end what is left.
        Nothing happens in a forked child: all of that is its parent's.
        """
        if os.getpid() != self._process:
            return
        try:
            if drain > 0 and not self._closed:
                await self._drain_all(drain)
        finally:
            await self._close_once()

    async def _close_once(self) -> None:
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            # Whoever is in a hurry still leaves nothing behind: it is bounded.
            await asyncio.wait((self._closing,))
            raise

    async def _drain_all(self, seconds: float) -> None:
        held = [r.instance for r in self.registrations if r.state is State.ACTIVE]
        mine = [instance for instance in held if isinstance(instance, EndpointInstance)]
        marked = await asyncio.gather(*map(self.drain, mine), return_exceptions=True)
        for instance, outcome in zip(mine, marked, strict=True):
            if isinstance(outcome, BaseException):
                _log.warning(
                    "%s could not be marked as draining: %s",
                    instance.id,
                    outcome,
                    extra=log.fields("not_drained", id=instance.id, error=outcome),
                )
        if mine:
            await asyncio.sleep(seconds)

    async def _close(self) -> None:
        if self._tasks:  # what has begun is ended first, so that it is known what is there
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for feed in list(self._feeds.values()):
            await feed.aclose()
        self._feeds.clear()
        try:
            await self._registrar.close(_CLOSE_TIMEOUT)
        finally:
            await self._store.detach()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self.registrations)} registrations"
        return f"<Discovery {self._instance_id:x} {state}>"

    async def _register(self, key: str, value: bytes, instance: Instance, ttl: float | None) -> Registration:
        try:
            return await self._registrar.register(self._bucket(instance.id), key, value, instance, ttl)
        except EntryExistsError as error:
            raise self._already_registered(instance, error) from error

    async def _take_back(self, work: asyncio.Task[Registration]) -> None:
        """After a cancelled `register`: what it wrote is known when it ends, and only then can go."""
        await asyncio.wait((work,))
        if work.cancelled() or work.exception() is not None:
            return
        try:
            await self._registrar.release(work.result())
        except DiscoveryError as error:
            id = work.result().id
            _log.warning(
                "%s could not be taken back: %s",
                id,
                error,
                extra=log.fields("not_unregistered", id=id, error=error),
            )

    @staticmethod
    def _check_cancelled_by_caller(work: asyncio.Task[Any]) -> None:
        """Raise ClosedError when it was `close` that cancelled `work`, and not the caller."""
        task = asyncio.current_task()
        if work.cancelled() and task is not None and not task.cancelling():
            raise ClosedError("this Discovery was closed before that was done")

    async def _replace(self, instance: Instance, value: bytes) -> None:
        key = keys.key_of(instance.id)
        bucket = self._bucket(instance.id)
        found = await bucket.get(key)
        if found is None or found.value != wire.dumps(instance):
            raise ConflictError(f"{instance.id} is not registered with the value it was expected to have")
        await bucket.replace(key, value, revision=found.revision, leased=found.leased)

    def _already_registered(self, instance: Instance, error: EntryExistsError) -> AlreadyRegisteredError:
        try:
            existing: Instance | None = entry.decode(kind_of(instance.id), error.entry.key, error.entry.value)
        except InvalidValueError:
            existing = None
        return AlreadyRegisteredError(
            f"{instance.id} is already registered with another value; unregister it, update it, or use "
            "another instance id",
            existing,
        )

    def _bucket(self, id: InstanceId) -> Bucket:
        return self._store.bucket(entry.bucket_of(id))

    def _decoder(self, kind: Kind) -> Callable[[str, bytes], Instance]:
        def decode(key: str, value: bytes) -> Instance:
            try:
                return entry.decode(kind, key, value)
            except InvalidValueError as error:
                self._skip(kind, key, error)
                raise

        return decode

    def _skip(self, kind: Kind, key: str, error: InvalidValueError) -> None:
        self._stats.rubbish += 1
        if (kind, key) not in self._warned and len(self._warned) < _WARNINGS_KEPT:
            self._warned.add((kind, key))
            bucket = entry.BUCKETS[kind]
            _log.warning(
                "skipping %s in bucket %s: %s",
                key,
                bucket,
                error,
                extra=log.fields("rubbish", key=key, bucket=bucket, error=error),
            )

    def _join(self, query: Query) -> Feed:
        self._check_open()
        self._feeds = {other: feed for other, feed in self._feeds.items() if feed.is_open}
        self._loop = asyncio.get_running_loop()
        feed = self._feeds.get(query)
        if feed is None or feed.error is not None:
            bucket, prefix = self._store.bucket(entry.BUCKETS[query.kind]), keys.prefix_of(query)
            feed = self._feeds[query] = Feed(
                query,
                self._decoder(query.kind),
                lambda sink: bucket.watch(prefix, sink),
                clock=self._store.clock,
                grace=self._grace,
                stats=self._stats,
            )
        return feed

    def _release(self, feed: Feed, follower: Follower) -> None:
        """A watch was dropped without being closed; any thread may be the one that collects it."""
        if os.getpid() == self._process and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and all that ran in it
                self._loop.call_soon_threadsafe(self._leave, feed, follower)

    def _leave(self, feed: Feed, follower: Follower) -> None:
        if not self._closed:
            self._start(feed.leave(follower))

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end even if the caller is cancelled, who then hears of it afterwards."""
        task = self._start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._check_cancelled_by_caller(task)
            await asyncio.wait((task,))
            raise

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise ClosedError(
                f"this Discovery is process {self._process}'s, which forked this one; make one here"
            )
        if self._closed:
            raise ClosedError("this Discovery was closed")


class Connecting:
    """What `connect` returns: await it, or enter it with `async with`."""

    def __init__(self, open_discovery: Callable[[], Coroutine[Any, Any, Discovery]]) -> None:
        self._open = open_discovery
        self._discovery: Discovery | None = None

    def __await__(self) -> Generator[Any, None, Discovery]:
        return self._open().__await__()

    async def __aenter__(self) -> Discovery:
        self._discovery = await self._open()
        return self._discovery

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._discovery is not None
        await self._discovery.close()


def connect(
    servers: str | Sequence[str] = "nats://127.0.0.1:4222",
    *,
    lease_ttl: float | None = 10.0,
    instance_id: int | None = None,
    expiry_grace: float = 1.0,
    replicas: int = 1,
    storage: Literal["file", "memory"] = "file",
    bucket_prefix: str = "",
    tombstone_ttl: float = 300.0,
    on_lost: Callable[[Registration], object] | None = None,
    **nats_options: Any,
) -> Connecting:
    """A Discovery on a NATS connection of its own; `nats_options` go to nats-py.

    `replicas` and `storage` are for buckets that do not exist yet, `bucket_prefix` keeps several registries
    apart, the mark of a removal stays for `tombstone_ttl` seconds; for the rest see `Discovery`.
    Awaiting raises StoreUnavailableError, PermissionDeniedError, InvalidValueError, InvalidNameError.
    """

    async def open_discovery() -> Discovery:
        _check_options(instance_id, lease_ttl, expiry_grace)
        store = await JetStreamStore.connect(
            servers if isinstance(servers, str) else list(servers),
            nats_options,
            replicas=replicas,
            storage=storage,
            bucket_prefix=bucket_prefix,
            tombstone_ttl=tombstone_ttl,
        )
        return Discovery(
            store, instance_id=instance_id, lease_ttl=lease_ttl, expiry_grace=expiry_grace, on_lost=on_lost
        )

    return Connecting(open_discovery)


def _check_options(instance_id: int | None, lease_ttl: float | None, expiry_grace: float) -> None:
    """Before anything is opened."""
    if instance_id is not None:
        check_instance_id(instance_id)
    _checked_ttl(lease_ttl)
    if not isinstance(expiry_grace, (int, float)) or not expiry_grace >= 0:
        raise InvalidValueError(f"expiry_grace must be 0 s or more: {expiry_grace!r}")


def _checked_ttl(ttl: float | None) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not _MIN_LEASE_TTL <= ttl < math.inf:
        raise InvalidValueError(f"lease_ttl must be None or at least {_MIN_LEASE_TTL:g} s: {ttl!r}")
    return ttl


def _check_query(query: object) -> None:
    if not isinstance(query, Query):
        raise InvalidValueError(f"not a query: {query!r}; use endpoints(…) or models(…)")
