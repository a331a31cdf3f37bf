"""The facade: one process's view of the registry, and its own place in it."""

from __future__ import annotations

import asyncio
import builtins
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from . import entry, keys, log
from .balance import Balance
from .cache import UNREADABLE_KEPT_S
from .calls import check_panic_threshold
from .closing import Closing
from .errors import (
    ClosedError,
    InvalidValueError,
)
from .history import Change, read_history, since_time
from .informer import Follower, Informer
from .lease import State
from .loop import OwnLoop
from .losses import Losses
from .model import (
    SORT_KEYS,
    EndpointInstance,
    EndpointQuery,
    EventChannelInstance,
    EventChannelQuery,
    EventSourceInstance,
    EventSourceQuery,
    Instance,
    Kind,
    ModelCardInstanceId,
    ModelInstance,
    ModelQuery,
    Query,
    new_instance_id,
)
from .model import models as model_cards
from .notices import Notices
from .options import check_options, checked_callback, checked_keys, checked_models
from .readiness import check
from .registering import Registering
from .registrar import Registrar, Registration
from .services import Service, count_services
from .signing import Secret, Signer, Trust, UntrustedError
from .stats import Counters, QueryState, Stats
from .store import UNTRUSTED, Store
from .store.signed import SignedStore
from .store.snapshot import read
from .tasks import Tasks
from .view import View
from .watch import Watch
from .where import Where, checked_where

__all__ = ["Discovery"]

_log = log.logger(__name__)
_T = TypeVar("_T")
_InstanceT = TypeVar("_InstanceT", bound=Instance)

# A reader keeps an instance whose value became unreadable for 15 s, or, where leases are long, until its
# owner has renewed and found out; but not for ever.
_RENEWALS_PER_TTL, _LATE_RENEWAL, _MOST_UNREADABLE_KEPT = 3.0, 10.0, 300.0
# As long as the stores try to get an answer.
_LIST_TIMEOUT = 6.0
# Instances that are worked on before others may use the loop: some milliseconds.
_TURN = 1_000


class Discovery(Registering):
    """Registers instances, lists them, and watches them come and go.

    Use it as `async with`, or call `close`. `lease_ttl` (seconds, or None for no lease) is how long an
    instance outlives its process; `expiry_grace` (seconds) is how long an expiry is kept back, in case the
    owner is back at once; `on_lost` is a plain function, called with a Registration whose id another owner
    took. `on_state` is one too, called with a Registration after every change of its `state`; its `error`
    then holds the reason. An error that a callback raises is logged and changes nothing.

    With a `signer` (a Signer, or what that takes: the seed of a user NKey, the path of a file with one, a
    function) everything that is written is signed. With `trusted` (a Trust, or what that takes: public NKeys
    by namespace) only what one of these keys has signed is believed. Both need the extra `nkeys`.

    With `models="dynamo"`, this Discovery registers, changes and removes model cards by Dynamo's rules: see
    docs/dynamo.md.

    It belongs to the event loop that it is made in, or first used in. Elsewhere its methods raise
    WrongLoopError.
    """

    def __init__(
        self,
        store: Store,
        *,
        instance_id: int | None = None,
        lease_ttl: float | None = 10.0,
        expiry_grace: float = 1.0,
        on_lost: Callable[[Registration], object] | None = None,
        on_state: Callable[[Registration], object] | None = None,
        signer: Signer | Secret | None = None,
        trusted: Trust | Mapping[str, Iterable[str]] | None = None,
        models: Literal["dynamo"] | None = None,
    ) -> None:
        check_options(instance_id, lease_ttl, expiry_grace)
        self._models = checked_models(models)
        self._instance_id = new_instance_id() if instance_id is None else instance_id
        self._lease_ttl = lease_ttl
        self._grace = expiry_grace
        on_lost, on_state = checked_callback("on_lost", on_lost), checked_callback("on_state", on_state)
        self._stats = Counters()
        time = store.clock.time
        self._untrusted = Notices("values that are not believed", time)
        signer, trust = checked_keys(signer, trusted)
        if signer is not None or trust is not None:
            store = SignedStore(store, signer=signer, trust=trust, refused=self._refuse)
        self._store = store
        self._registrar = Registrar(store, self._stats, on_lost, on_state)
        self._informers: dict[Query, Informer] = {}
        self._tasks = Tasks(self._stats)
        self._unreadable = Notices("values that cannot be read", time)
        self._forged = Notices("forged messages", time)
        self._stale = Notices("queries that became stale", time, repeats=True)
        self._failures = Notices("failures of callbacks", time, repeats=True)
        self._unmatched = Notices("failures of where functions", time)
        self._panics = Notices("views that lost many instances at once", time, repeats=True)
        self._closed = False
        self._is_draining = False
        self._own_loop = OwnLoop(getattr(store, "loop", None))
        self._closing: asyncio.Task[None] | None = None
        store.attach()

    def stats(self) -> Stats:
        """The counters, and what is seen and held, as they are now; any thread may ask."""
        states = Counter(registration.state for registration in self.registrations)
        return self._stats.snapshot(
            {
                query: QueryState(len(informer.picture), informer.picture.synced, informer.age)
                for query, informer in tuple(self._informers.items())
                if informer.is_open
            },
            {str(state): states[state] for state in State},
        )

    @overload
    async def list(
        self, query: EndpointQuery, *, where: Where[EndpointInstance] | None = ...
    ) -> builtins.list[EndpointInstance]: ...

    @overload
    async def list(
        self, query: ModelQuery, *, where: Where[ModelInstance] | None = ...
    ) -> builtins.list[ModelInstance]: ...

    @overload
    async def list(
        self, query: EventChannelQuery, *, where: Where[EventChannelInstance] | None = ...
    ) -> builtins.list[EventChannelInstance]: ...

    @overload
    async def list(
        self, query: EventSourceQuery, *, where: Where[EventSourceInstance] | None = ...
    ) -> builtins.list[EventSourceInstance]: ...

    @overload
    async def list(self, query: Query, *, where: Where[Instance] | None = ...) -> builtins.list[Instance]: ...

    async def list(self, query: Query, *, where: Where[Any] | None = None) -> builtins.list[Any]:
        """Return the instances of `query` as they are now, sorted by id; none without a bucket.

        With `where`, a function of an instance, return those for which it is true. If it raises, that is
        logged, and the instance is left out. Cancelling the call ends it within half a second.
        Raises InvalidValueError, UnsupportedServerError, PermissionDeniedError, StoreUnavailableError,
        WrongLoopError, ClosedError.

        Example: `await discovery.list(endpoints("shop"), where=lambda one: one.transport.kind == "http")`
        """
        self._check_open()
        _check_query(query)
        matches = checked_where(where, query, self._unmatched, self._stats)
        values = await self._read(query)
        decode = self._decoder(query.kind)
        instances: builtins.list[Instance] = []
        for number, (key, value) in enumerate(values.items(), 1):
            with suppress(InvalidValueError):
                instance = decode(key, value)
                if matches is None or matches(instance):
                    instances.append(instance)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        for by in SORT_KEYS:
            instances.sort(key=by)
            if len(instances) > _TURN:
                await asyncio.sleep(0)
        return instances

    async def services(self, kind: Kind = Kind.ENDPOINT) -> builtins.list[Service]:
        """Return the places that have instances of `kind`, with their number, sorted by name.

        Entries are counted by their keys: one whose value cannot be read counts too.
        Raises InvalidValueError, and what `list` raises.

        Example: `for service in await discovery.services(): print(service.endpoint, service.instances)`
        """
        self._check_open()
        try:
            kind = Kind(kind)
        except ValueError:
            raise InvalidValueError(f"services takes a Kind, such as Kind.MODEL, not {kind!r}") from None
        if kind not in (Kind.ENDPOINT, Kind.MODEL):
            raise InvalidValueError(f"services counts endpoints or model cards, not {kind}s")
        return count_services(kind, await self._read(Query(kind)))

    async def _cards_at(self, place: ModelInstance | ModelCardInstanceId) -> builtins.list[ModelInstance]:
        return await self.list(model_cards(place.namespace, place.component, place.endpoint))

    async def _read(self, query: Query) -> dict[str, bytes]:
        bucket = self._store.bucket(entry.BUCKETS[query.kind])
        reading = self._tasks.start(read(bucket, keys.prefix_of(query), query, timeout=_LIST_TIMEOUT))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._tasks.check_cancelled_by_caller(reading)
            await self._tasks.stop(reading)
            raise

    @overload
    def list_and_watch(
        self, query: EndpointQuery, *, where: Where[EndpointInstance] | None = ...
    ) -> Watch[EndpointInstance]: ...

    @overload
    def list_and_watch(
        self, query: ModelQuery, *, where: Where[ModelInstance] | None = ...
    ) -> Watch[ModelInstance]: ...

    @overload
    def list_and_watch(
        self, query: EventChannelQuery, *, where: Where[EventChannelInstance] | None = ...
    ) -> Watch[EventChannelInstance]: ...

    @overload
    def list_and_watch(
        self, query: EventSourceQuery, *, where: Where[EventSourceInstance] | None = ...
    ) -> Watch[EventSourceInstance]: ...

    @overload
    def list_and_watch(self, query: Query, *, where: Where[Instance] | None = ...) -> Watch[Instance]: ...

    def list_and_watch(self, query: Query, *, where: Where[Any] | None = None) -> Watch[Any]:
        """Return a watch: the instances of `query` as Added, and then every change, until it is closed.

        With `where`, a function of an instance, it shows those for which that is true. An instance that
        stops matching is Removed with the reason `unmatched`, one that begins to match is Added. If the
        function raises, that is logged, and the instance does not match.

        Guarantees
        1. Every live instance comes first as Added; then the watch is synced.
        2. Per id, Removed comes only after Added; Added again on a live id means that it changed.
        3. There is no order across ids.
        4. Intermediate states may be skipped, the last one never is.
        5. A view of the same query changes before the event is read.
        6. After anything that may have cost a message the difference is reported, missed removals too.
        7. A failure that cannot be repaired raises; only a close ends the watch quietly.

        Raises InvalidValueError, ClosedError; the watch raises UnsupportedServerError, PermissionDeniedError,
        StoreUnavailableError (no JetStream), ClosedError (the connection was closed).
        """
        self._check_open(needs_loop=False)
        _check_query(query)
        keys.prefix_of(query)
        matches = checked_where(where, query, self._unmatched, self._stats)
        return Watch(lambda: self._join(query), self._release, self._own_loop.check, self._stats, matches)

    @overload
    def view(
        self,
        query: EndpointQuery,
        *,
        where: Where[EndpointInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EndpointInstance]: ...

    @overload
    def view(
        self,
        query: ModelQuery,
        *,
        where: Where[ModelInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[ModelInstance]: ...

    @overload
    def view(
        self,
        query: EventChannelQuery,
        *,
        where: Where[EventChannelInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EventChannelInstance]: ...

    @overload
    def view(
        self,
        query: EventSourceQuery,
        *,
        where: Where[EventSourceInstance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[EventSourceInstance]: ...

    @overload
    def view(
        self,
        query: Query,
        *,
        where: Where[Instance] | None = ...,
        balance: Balance | None = ...,
        panic_threshold: float = ...,
    ) -> View[Instance]: ...

    def view(
        self,
        query: Query,
        *,
        where: Where[Any] | None = None,
        balance: Balance | None = None,
        panic_threshold: float = 0.5,
    ) -> View[Any]:
        """Return a picture of `query` that follows the registry, picking by `balance` (or round robin).

        `where` is that of `list_and_watch`. With a `balance` that has a `for_view` method, the view picks by
        one of its own, so that two views may be given the same one. When more than the share
        `panic_threshold` of at least three known instances expired or went missing within 30 s, picks are
        also among these; 0 switches that off.
        Raises InvalidValueError, ClosedError, WrongLoopError.
        """
        self._check_open()
        _check_query(query)
        check_panic_threshold(panic_threshold)
        clock = self._store.clock
        return View(
            query,
            self._join(query),
            self._release,
            self._own_loop.check,
            balance,
            clock,
            self._failures,
            self._stats,
            Losses(panic_threshold, query, clock=clock, notices=self._panics, stats=self._stats),
            checked_where(where, query, self._unmatched, self._stats),
        )

    async def history(self, query: Query, *, since: datetime | float | None = None) -> builtins.list[Change]:
        """Return what happened to the instances of `query`, the oldest change first.

        `since` is an aware datetime, or seconds before now; without it, all that is kept. An operator makes
        the stream that keeps it (`natsdisc history enable`), and nothing but this call needs that stream. A
        value that was replaced before the server copied it is missed. `Removed.last` is what was seen within
        the time that is read.

        Raises NoHistoryError, InvalidValueError for `since`, UnsupportedServerError for a MemoryStore, and
        what `list` raises. Example: `await discovery.history(endpoints("shop"), since=3600)`
        """
        self._check_open()
        _check_query(query)
        return await read_history(self._store, query, since_time(since))

    async def check(self, *, timeout: float = 2.0) -> None:
        """Return when the server answers, and every watch, view and registration is well.

        Waits `timeout` seconds at most for all of it, so that a readiness probe can await it. A registration
        is well when it is `active`, a watch or a view when it is in step with the server.
        Raises NotReadyError, whose `reasons` say all that is not well, InvalidValueError, WrongLoopError,
        ClosedError.

        >>> await discovery.check(timeout=1.0)  # doctest: +SKIP
        """
        self._check_open()
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InvalidValueError(f"timeout must be a number of seconds above 0: {timeout!r}")
        work = check(self._store, lambda: self.registrations, lambda: self._informers.items(), timeout)
        await self._tasks.start(work)

    async def close(self, *, drain: float = 0.0, keep: bool = False) -> None:
        """End the watches, unregister everything this process registered, and let go of the connection.

        With `drain` (seconds), mark our endpoints first, and go on serving for so long; without an endpoint
        that could be marked, go on at once. Meanwhile `register` raises ClosedError.

        With `keep`, nothing is unregistered: each lease is renewed once more and left to the next process
        with the same `instance_id`. If that registers within the lease, watchers see no removal. They see an
        Added only if its spec differs. Without a next process the leases end by themselves.

        It takes two seconds at most beyond `drain` when the server is away or does not answer: leases then
        end what is left, and the log says so. A server that answers is given the time that many registrations
        need. Errors on the way are logged, never raised. A caller that waits on this Discovery meanwhile gets
        ClosedError or ends. Nothing happens in a forked child, since all is its parent's.
        Raises WrongLoopError; InvalidValueError for a `drain` that is no number of seconds, or with `keep`.

        >>> await discovery.close(drain=5.0)  # doctest: +SKIP
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not 0 <= drain < math.inf:
            raise InvalidValueError(f"drain must be a number of seconds, 0 or more: {drain!r}")
        if drain > 0 and keep:
            raise InvalidValueError("drain and keep exclude each other: what is kept stays in rotation")
        if not self._own_loop.in_this_process or (self._closing is not None and self._closing.done()):
            return
        self._own_loop.check()
        try:
            if drain > 0 and not self._closed:
                self._is_draining = True
                await Closing(self._store, self._registrar, self._tasks).drain(drain)
        finally:
            await self._close_once(keep)

    async def _close_once(self, keep: bool) -> None:
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(keep))
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            # Finish closing even when cancelled; it is bounded.
            await asyncio.wait((self._closing,))
            raise

    async def _close(self, keep: bool) -> None:
        watches = [informer.aclose for informer in self._informers.values()]
        self._informers.clear()
        await Closing(self._store, self._registrar, self._tasks).run(watches, keep=keep)
        for notices in (
            self._unreadable,
            self._untrusted,
            self._forged,
            self._stale,
            self._failures,
            self._unmatched,
            self._panics,
        ):
            notices.sum_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self.registrations)} registrations"
        return f"<Discovery {self._instance_id:x} {state}>"

    def _decoder(self, kind: Kind) -> Callable[[str, bytes], Instance]:
        def decode(key: str, value: bytes) -> Instance:
            if value is UNTRUSTED:
                raise UntrustedError("no trusted key has signed it")  # counted and logged already
            try:
                return entry.decode(kind, key, value)
            except InvalidValueError as error:
                self._skip(kind, key, error)
                raise
            except Exception as bug:
                # One value must not end what reads all the others.
                self._skip(kind, key, bug)
                raise InvalidValueError(f"it cannot be read: {bug!r}") from bug

        return decode

    def _refuse(self, bucket: str, key: str, error: UntrustedError) -> None:
        self._stats.untrusted += 1
        if self._untrusted.allow((bucket, key)):
            _log.warning(
                "ignoring the value of %s in bucket %s: %s",
                key,
                bucket,
                error,
                extra=log.fields("untrusted", key=key, bucket=bucket, error=error),
            )

    def _skip(self, kind: Kind, key: str, error: Exception) -> None:
        self._stats.invalid += 1
        bucket = entry.BUCKETS[kind]
        if self._unreadable.allow(f"{key} in bucket {bucket}"):
            _log.warning(
                "skipping %s in bucket %s: %s",
                key,
                bucket,
                error,
                extra=log.fields("invalid", key=key, bucket=bucket, error=error),
            )

    @property
    def _patience(self) -> float:
        """Seconds for which an instance is kept whose value became unreadable."""
        renewed = (self._lease_ttl or 0.0) / _RENEWALS_PER_TTL + _LATE_RENEWAL
        return min(max(UNREADABLE_KEPT_S, renewed), _MOST_UNREADABLE_KEPT)

    def _join(self, query: Query) -> Informer:
        self._check_open()
        self._forget_closed()
        informer = self._informers.get(query)
        if informer is None or informer.error is not None:
            bucket, prefix = self._store.bucket(entry.BUCKETS[query.kind]), keys.prefix_of(query)
            informer = self._informers[query] = Informer(
                query,
                self._decoder(query.kind),
                lambda sink: bucket.watch(prefix, sink),
                clock=self._store.clock,
                grace=self._grace,
                patience=self._patience,
                stats=self._stats,
                forged=self._forged,
                stale=self._stale,
            )
        return informer

    def _forget_closed(self) -> None:
        self._informers = {other: informer for other, informer in self._informers.items() if informer.is_open}

    def _release(self, informer: Informer, follower: Follower) -> None:
        """A watch was dropped without being closed; any thread may be the one that collects it."""
        if self._own_loop.in_this_process and self._own_loop.loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and all that ran in it
                self._own_loop.loop.call_soon_threadsafe(self._leave, informer, follower)

    def _leave(self, informer: Informer, follower: Follower) -> None:
        if not self._closed:
            self._tasks.start_alone("ending a watch that was dropped", informer.leave(follower))

    def _check_open(self, *, needs_loop: bool = True) -> None:
        self._own_loop.check(needs_loop=needs_loop)
        if self._closed:
            raise ClosedError("this Discovery was closed")


def _check_query(query: object) -> None:
    if not isinstance(query, Query):
        raise InvalidValueError(
            f"not a query: {query!r}; use endpoints(…), models(…), event_channels(…) or event_sources(…)"
        )
