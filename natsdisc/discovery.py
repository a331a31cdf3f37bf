"""The facade: one process's view of the registry, and its own place in it."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast, overload

from . import entry, keys, log, wire
from .addresses import check_address
from .balance import Balance
from .cache import UNREADABLE_KEPT_S
from .callbacks import check_callback, plain
from .calls import check_panic_threshold
from .errors import (
    AlreadyRegisteredError,
    ClosedError,
    ConflictError,
    InvalidValueError,
)
from .informer import Follower, Informer
from .lease import MAX_TTL, State
from .loop import OwnLoop
from .losses import Losses
from .model import (
    SORT_KEYS,
    EndpointInstance,
    EndpointQuery,
    EndpointSpec,
    EventChannelInstance,
    EventChannelQuery,
    EventChannelSpec,
    EventSourceInstance,
    EventSourceQuery,
    EventSourceSpec,
    Instance,
    InstanceId,
    Kind,
    ModelInstance,
    ModelQuery,
    ModelSpec,
    Query,
    Spec,
    Status,
    Transport,
    check_instance_id,
    kind_of,
    new_instance_id,
)
from .notices import Notices
from .registrar import OnChange, Registrar, Registration
from .services import Service, count_services
from .signing import Secret, Signer, Trust, UntrustedError
from .stats import Counters, QueryState, Stats
from .store import UNTRUSTED, Bucket, EntryExistsError, Store, Write
from .store.jetstream import JetStreamStore
from .store.signed import SignedStore
from .store.snapshot import read
from .tasks import Tasks, bounded
from .view import View
from .watch import Watch
from .where import Where, checked_where

__all__ = ["Connecting", "Discovery", "connect"]

_log = log.logger(__name__)
_T = TypeVar("_T")
_InstanceT = TypeVar("_InstanceT", bound=Instance)

# A server that is away must not keep a process from ending. All steps of a close share these seconds: what
# has begun is ended, watches are closed, registrations end, and the connection is closed, for which some time
# is set aside.
_CLOSE_TIMEOUT = 1.65
_ENDING_TASKS, _CLOSING_WATCHES, _UNREGISTERING, _DETACHING = 0.5, 0.3, 0.25, 0.5
# A server that answers ends this many registrations a second at least, whatever else it does.
_UNREGISTERED_PER_SECOND = 500
# Seconds in which the marks of a drain are written. A server that is there needs milliseconds.
_MARKING_TIMEOUT = 1.0
# A reader keeps an instance whose value became unreadable for 15 s, or, where leases are long, until its
# owner has renewed and found out; but not for ever.
_RENEWALS_PER_TTL, _LATE_RENEWAL, _MOST_UNREADABLE_KEPT = 3.0, 10.0, 300.0
# As long as the stores try to get an answer.
_LIST_TIMEOUT = 6.0
# Instances that are worked on before others may use the loop: some milliseconds.
_TURN = 1_000
# The server keeps schedules in whole seconds and tombstones expire no faster (ADR-43).
_MIN_LEASE_TTL = 1.0


class _Unset:
    """The mark of an argument that was not given, where None means something."""


_UNSET = _Unset()


class Discovery:
    """Registers instances, lists them, and watches them come and go.

    Use it as `async with`, or call `close`. `lease_ttl` (seconds, or None for no lease) is how long an
    instance outlives its process; `expiry_grace` (seconds) is how long an expiry is kept back, in case the
    owner is back at once; `on_lost` is a plain function, called with a Registration whose id another owner
    took. `on_state` is one too, called with a Registration after every change of its `state`; its `error`
    then holds the reason. An error that a callback raises is logged and changes nothing.

    With a `signer` (a Signer, or what that takes: the seed of a user NKey, the path of a file with one, a
    function) everything that is written is signed. With `trusted` (a Trust, or what that takes: public NKeys
    by namespace) only what one of these keys has signed is believed. Both need the extra `nkeys`.

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
    ) -> None:
        _check_options(instance_id, lease_ttl, expiry_grace)
        self._instance_id = new_instance_id() if instance_id is None else instance_id
        self._lease_ttl = lease_ttl
        self._grace = expiry_grace
        on_lost, on_state = _checked_callback("on_lost", on_lost), _checked_callback("on_state", on_state)
        self._stats = Counters()
        time = store.clock.time
        self._untrusted = Notices("values that are not believed", time)
        signer, trust = _checked_keys(signer, trusted)
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

    @property
    def instance_id(self) -> int:
        """This process's id, an unsigned 64-bit integer."""
        return self._instance_id

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process, each with its state."""
        return self._registrar.registrations

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
    async def register(
        self, spec: EndpointSpec, *, lease_ttl: float | _Unset | None = ...
    ) -> EndpointInstance: ...

    @overload
    async def register(
        self, spec: EventChannelSpec, *, lease_ttl: float | _Unset | None = ...
    ) -> EventChannelInstance: ...

    @overload
    async def register(
        self, spec: EventSourceSpec, *, lease_ttl: float | _Unset | None = ...
    ) -> EventSourceInstance: ...

    @overload
    async def register(self, spec: ModelSpec, *, lease_ttl: float | _Unset | None = ...) -> ModelInstance: ...

    async def register(self, spec: Spec, *, lease_ttl: float | _Unset | None = _UNSET) -> Instance:
        """Put an instance into the registry until it is unregistered, or this process dies.

        The same spec again returns the same instance. If the call is cancelled, what it had begun is taken
        back: the call ends within half a second, and what is not known by then is taken back in the
        background, or by `close`.
        Raises AlreadyRegisteredError, InvalidNameError, InvalidValueError, PayloadTooLargeError,
        UnsupportedServerError, PermissionDeniedError, StoreUnavailableError, WrongLoopError, and ClosedError,
        also while a `close` drains.
        """
        self._check_open()
        if self._is_draining:
            raise ClosedError("this Discovery is being closed: it drains, and registers nothing more")
        if not isinstance(spec, Spec):
            raise InvalidValueError(
                f"register takes an EndpointSpec, a ModelSpec, an EventChannelSpec or an EventSourceSpec, "
                f"not {type(spec).__name__}"
            )
        ttl = self._lease_ttl if isinstance(lease_ttl, _Unset) else _checked_ttl(lease_ttl)
        instance = spec.with_instance_id(self._instance_id)
        key, value = keys.key_of(instance.id), wire.dumps(instance)
        # The instance as others will read it: JSON has no tuples.
        instance = wire.loads(value)
        work = self._tasks.start(self._register(key, value, instance, ttl))
        try:
            registration = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._tasks.check_cancelled_by_caller(work)
            await self._tasks.undo(f"taking back {instance.id}", work, self._registrar.release)
            raise
        return registration.instance

    async def unregister(self, instance: Instance | InstanceId) -> None:
        """Take an instance out of the registry; one that is not there is already unregistered.

        If the call is cancelled, it ends within half a second, and the instance is still taken out in the
        background.
        Raises PermissionDeniedError, StoreUnavailableError, WrongLoopError, ClosedError.
        """
        self._check_open()
        id = instance.id if isinstance(instance, Instance) else instance
        if not isinstance(id, InstanceId):
            raise InvalidValueError(f"unregister takes an instance or its id, not {type(id).__name__}")
        key = keys.key_of(id)
        if self._registrar.find(id) is not None:
            await self._tasks.finish(f"unregistering {id}", self._registrar.unregister(id))
        else:
            await self._tasks.finish(f"unregistering {id}", self._bucket(id).delete(key, revision=None))

    async def update(
        self,
        instance: _InstanceT,
        *,
        transport: Transport | _Unset = _UNSET,
        metadata: dict[str, Any] | _Unset = _UNSET,
        card: Any = _UNSET,
    ) -> _InstanceT:
        """Change what is registered, if nobody else changed it first; watchers get an Added.

        Fields that are not named stay as they are, those in `extra` too. For an instance of this process the
        change is applied to its newest value, also after another client's update of other fields. For an
        instance of another process, `instance` must be equal to what is registered now. If the call is
        cancelled, it ends within half a second; the change may still be made in the background.

            await discovery.update(instance, metadata={**instance.metadata, "weight": 3})

        Raises ConflictError, InvalidValueError, PayloadTooLargeError, PermissionDeniedError,
        StoreUnavailableError, WrongLoopError, ClosedError.
        """
        self._check_open()
        if not isinstance(instance, Instance):
            raise InvalidValueError(f"update takes an instance, not {type(instance).__name__}")
        given = {"transport": transport, "metadata": metadata, "card": card}
        changes = {name: value for name, value in given.items() if not isinstance(value, _Unset)}
        if isinstance(transport, Transport) and isinstance(instance, EndpointInstance):
            check_address(transport.kind, transport.address)
        unknown = changes.keys() - {field.name for field in dataclasses.fields(instance)}
        if unknown:
            raise InvalidValueError(f"{instance.id} has no {', '.join(sorted(unknown))}")

        def change(current: Instance) -> Instance:
            return dataclasses.replace(current, **changes)

        registration = self._registrar.find(instance.id)
        if registration is not None:
            work = self._registrar.update(registration, change, changes)
        else:
            work = self._change(instance, change)
        return cast(_InstanceT, await self._tasks.finish(f"updating {instance.id}", work))

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
        return count_services(kind, await self._read(Query(kind)))

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

    async def drain(self, instance: EndpointInstance) -> EndpointInstance:
        """Set an endpoint's status to `draining`, so that pickers leave it out while it still serves.

        Raises what `update` does, and InvalidValueError for a model card, which has no status.
        """
        self._check_open()
        if not isinstance(instance, EndpointInstance):
            raise InvalidValueError(
                f"could not set the status of a {type(instance).__name__}: only an endpoint "
                "(EndpointInstance) has one"
            )

        def mark(current: Instance) -> Instance:
            assert isinstance(current, EndpointInstance)
            return dataclasses.replace(current, status=Status.DRAINING)

        registration = self._registrar.find(instance.id)
        if registration is not None:
            work = self._registrar.update(registration, mark, ())
        else:
            work = self._change(instance, mark)
        return cast(EndpointInstance, await self._tasks.finish(f"draining {instance.id}", work))

    async def close(self, *, drain: float = 0.0) -> None:
        """End the watches, unregister everything this process registered, and let go of the connection.

        With `drain` (seconds), mark our endpoints first, and go on serving for so long; without an endpoint
        that could be marked, go on at once. Meanwhile `register` raises ClosedError.

        It takes two seconds at most beyond `drain` when the server is away or does not answer: leases then
        end what is left, and the log says so. A server that answers is given the time that many registrations
        need. Errors on the way are logged, never raised. Nothing happens in a forked child, since all is its
        parent's.
        Raises WrongLoopError; InvalidValueError for a `drain` that is no number of seconds.

        Example: `await discovery.close(drain=5.0)`
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not 0 <= drain < math.inf:
            raise InvalidValueError(f"drain must be a number of seconds, 0 or more: {drain!r}")
        if not self._own_loop.in_this_process or (self._closing is not None and self._closing.done()):
            return
        self._own_loop.check()
        try:
            if drain > 0 and not self._closed:
                self._is_draining = True
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
            # Finish closing even when cancelled; it is bounded.
            await asyncio.wait((self._closing,))
            raise

    async def _drain_all(self, seconds: float) -> None:
        """Mark our endpoints and wait until `seconds` are over; not at all when none could be marked."""
        time = asyncio.get_running_loop().time
        end = time() + seconds
        held = [r.instance for r in self.registrations if r.state is State.ACTIVE]
        marking = {
            self._tasks.start(self.drain(instance)): instance.id
            for instance in held
            if isinstance(instance, EndpointInstance)
        }
        if not marking:
            return
        patience = min(seconds, _MARKING_TIMEOUT + len(marking) / _UNREGISTERED_PER_SECOND)
        done, _ = await asyncio.wait(marking, timeout=patience)
        marked = 0
        for task, id in marking.items():
            error: BaseException | str | None = f"no answer within {patience:g} s"
            if task in done:
                error = ClosedError("cancelled") if task.cancelled() else task.exception()
            else:
                task.cancel()
            if error is None:
                marked += 1
                continue
            _log.warning(
                "%s could not be marked as draining: %s",
                id,
                error,
                extra=log.fields("not_drained", id=id, error=error),
            )
        if marked:
            await asyncio.sleep(end - time())

    async def _close(self) -> None:
        """Go through the steps of a close, which share one deadline.

        None of them raises or waits without bound.
        """
        time = asyncio.get_running_loop().time
        deadline = time() + _CLOSE_TIMEOUT
        # Calls that have begun are ended first, so that it is known what is there.
        await self._tasks.end(_ENDING_TASKS)
        informers = list(self._informers.values())
        self._informers.clear()
        if informers:
            closing = asyncio.gather(*(informer.aclose() for informer in informers), return_exceptions=True)
            await bounded("closing the watches", _outcome(closing), _CLOSING_WATCHES + len(informers) / 1000)
        # The registrar gives up by itself when nothing gets done any more.
        patience = max(deadline - time() - _DETACHING, _UNREGISTERING)
        count = len(self.registrations)
        await bounded(
            f"unregistering {count} instances",
            self._registrar.close(patience),
            patience + count / _UNREGISTERED_PER_SECOND + 0.1,
        )
        await bounded("closing the connection", self._store.detach(), max(deadline - time(), _DETACHING))
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

    async def _register(self, key: str, value: bytes, instance: Instance, ttl: float | None) -> Registration:
        try:
            return await self._registrar.register(self._bucket(instance.id), key, value, instance, ttl)
        except EntryExistsError as error:
            raise self._already_registered(instance, error) from error

    async def _change(self, instance: Instance, change: Callable[[Instance], Instance]) -> Instance:
        """Change another process's instance, which must still be `instance`; return what it is then."""
        key, bucket = keys.key_of(instance.id), self._bucket(instance.id)
        found = await bucket.get(key)
        current: Instance | None = None
        if found is not None and found.trusted:
            with suppress(InvalidValueError):
                current = entry.decode(kind_of(instance.id), key, found.value)
        if found is None or current != instance:
            raise ConflictError(
                f"cannot change {instance.id}: {'another value' if found else 'nothing'} is registered under "
                "it now; list it again, and change that"
            )
        value = wire.dumps(change(current))
        await bucket.replace(Write(key, value, found.ttl, found.owner or ""), revision=found.revision)
        return wire.loads(value)

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


async def _outcome(work: asyncio.Future[Any]) -> None:
    """Wait for a future, and raise the first error among its results."""
    for outcome in await work:
        if isinstance(outcome, Exception):
            raise outcome


class Connecting:
    """The return value of `connect`: await it, or enter it with `async with`."""

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
    servers: str | Sequence[str] | None = None,
    *,
    wait: float = 0.0,
    lease_ttl: float | None = 10.0,
    instance_id: int | None = None,
    expiry_grace: float = 1.0,
    replicas: int | None = None,
    storage: Literal["file", "memory"] | None = None,
    bucket_prefix: str = "",
    tombstone_ttl: float = 300.0,
    domain: str | None = None,
    api_prefix: str | None = None,
    on_lost: Callable[[Registration], object] | None = None,
    on_state: Callable[[Registration], object] | None = None,
    signer: Signer | Secret | None = None,
    trusted: Trust | Mapping[str, Iterable[str]] | None = None,
    **nats_options: Any,
) -> Connecting:
    """Return a Discovery on a NATS connection of its own; `nats_options` go to nats-py.

    `servers` is a URL, several separated by commas, or a list; without one NATS_URL counts, else
    nats://127.0.0.1:4222. A tls:// URL or `tls` means TLS: nothing is sent to a server that offers none.
    `wait` is how many seconds to try for a first server, math.inf for ever; with 0 each is tried once.
    The connection reconnects for ever and reads credentials again each time; only `close` ends it.

    `replicas` and `storage` are for buckets that do not exist yet, `bucket_prefix` keeps several registries
    apart, the mark of a removal stays for `tombstone_ttl` seconds. `domain` names the JetStream domain of the
    registry, or `api_prefix` the subject under which this account imports another one's JetStream: see
    docs/connecting.md. For the rest see `Discovery`.
    Awaiting raises StoreUnavailableError (without TLS where it was asked for InsecureConnectionError),
    PermissionDeniedError, InvalidValueError, InvalidNameError.

    >>> async with connect("nats://127.0.0.1:4222", wait=30) as discovery:  # doctest: +SKIP
    ...     await discovery.list(endpoints("shop"))
    """

    async def open_discovery() -> Discovery:
        _check_options(instance_id, lease_ttl, expiry_grace)
        own_key, trust = _checked_keys(signer, trusted)
        store = await JetStreamStore.connect(
            servers,
            nats_options,
            wait=wait,
            replicas=replicas,
            storage=storage,
            bucket_prefix=bucket_prefix,
            tombstone_ttl=tombstone_ttl,
            domain=domain,
            api_prefix=api_prefix,
        )
        return Discovery(
            store,
            instance_id=instance_id,
            lease_ttl=lease_ttl,
            expiry_grace=expiry_grace,
            on_lost=on_lost,
            on_state=on_state,
            signer=own_key,
            trusted=trust,
        )

    return Connecting(open_discovery)


def _check_options(instance_id: int | None, lease_ttl: float | None, expiry_grace: float) -> None:
    """Before anything is opened."""
    if instance_id is not None:
        check_instance_id(instance_id)
    _checked_ttl(lease_ttl)
    if not isinstance(expiry_grace, (int, float)) or not expiry_grace >= 0:
        raise InvalidValueError(f"expiry_grace must be 0 s or more: {expiry_grace!r}")


def _checked_keys(
    signer: Signer | Secret | None, trusted: Trust | Mapping[str, Iterable[str]] | None
) -> tuple[Signer | None, Trust | None]:
    return (
        signer if signer is None or isinstance(signer, Signer) else Signer(signer),
        trusted if trusted is None or isinstance(trusted, Trust) else Trust(trusted),
    )


def _checked_ttl(ttl: float | None) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not _MIN_LEASE_TTL <= ttl <= MAX_TTL:
        raise InvalidValueError(
            f"lease_ttl must be None or {_MIN_LEASE_TTL:g} to {MAX_TTL:.0f} s (a year): {ttl!r}; with None "
            "an instance stays until it is unregistered"
        )
    return ttl


def _checked_callback(name: str, callback: OnChange | None) -> OnChange | None:
    if callback is None:
        return None
    check_callback(name, callback)
    return plain(callback)


def _check_query(query: object) -> None:
    if not isinstance(query, Query):
        raise InvalidValueError(
            f"not a query: {query!r}; use endpoints(…), models(…), event_channels(…) or event_sources(…)"
        )
