"""Keeps this process's registrations alive: renews their leases, and registers again what was taken away."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import secrets
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from . import lease, log, wire
from .clock import Clock, Timer
from .errors import ConflictError, DiscoveryError
from .lease import Answer, State, Step
from .model import Instance, InstanceId
from .stats import Counters
from .store import Bucket, Entry, EntryExistsError, Lease, Store

__all__ = ["Registrar", "Registration"]

_log = log.logger(__name__)

# Renewals that fall due this close together (seconds) go out together.
_WINDOW = 0.025
# So many renewals go out together, and so many times that at once. An answer is waited for for half a second:
# of all that fall due in one moment after a reconnect, most would spend it in a queue, and be sent once more.
_RENEWED_TOGETHER, _RENEWING_AT_ONCE = 125, 4
# Seconds after a start or a reconnect.
_SWEEP_AFTER = 0.2, 1.0
# So many registrations are made again at once after a bucket was lost.
_AT_ONCE = 50


class Registration:
    """One instance that this process holds, and how it stands."""

    def __init__(self, bucket: Bucket, key: str, value: bytes, instance: Instance, hold: lease.Hold) -> None:
        self._bucket = bucket
        self._key = key
        self._value = value
        self._instance = instance
        self._hold = hold
        self._claims = 1

    @property
    def instance(self) -> Instance:
        """What is registered."""
        return self._instance

    @property
    def id(self) -> InstanceId:
        """Its id."""
        return self._instance.id

    @property
    def state(self) -> State:
        """`active`, `recovering` or `lost`."""
        return self._hold.state

    @property
    def lease_ttl(self) -> float | None:
        """Seconds its lease lasts without a renewal; None is for ever."""
        return self._hold.ttl

    def __repr__(self) -> str:
        return f"<Registration {self.id} {self.state}>"


class Registrar:
    """The registrations of one Discovery, renewed by one timer."""

    def __init__(
        self, store: Store, stats: Counters, on_lost: Callable[[Registration], object] | None
    ) -> None:
        self._store = store
        self._stats = stats
        self._on_lost = on_lost
        # Tells our leases from those of another process that was given the same instance id.
        self._owner = secrets.token_hex(8)
        self._held: dict[InstanceId, Registration] = {}
        self._locks: weakref.WeakValueDictionary[InstanceId, asyncio.Lock] = weakref.WeakValueDictionary()
        self._swept: set[tuple[Bucket, str]] = set()
        self._schedule: list[tuple[float, int, Registration]] = []
        self._order = itertools.count()
        self._due: dict[Bucket, OrderedDict[Registration, None]] = {}  # each once, however often it fell due
        self._renewing: Counter[Bucket] = Counter()
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._forget_listener: Callable[[], None] | None = None

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """What this process holds."""
        return tuple(self._held.values())

    def find(self, id: InstanceId) -> Registration | None:
        """The registration of `id`, if it is ours."""
        return self._held.get(id)

    async def register(
        self, bucket: Bucket, key: str, value: bytes, instance: Instance, ttl: float | None
    ) -> Registration:
        """Make a registration, or see to it that the same one is still there.

        Raises what `Bucket.create` raises.
        """
        async with self._lock(instance.id):
            held = self._held.get(instance.id)
            if held is not None and held._value == value and held.state is not State.LOST:
                ttl = held.lease_ttl
            sent = self._clock.time()
            revision = await bucket.create(key, value, ttl=ttl, owner=self._owner)
            hold = lease.started(ttl, revision, sent, _chance())
            if held is not None and held._value == value:
                self._put(held, hold)
                held._claims += 1
                return held
            registration = Registration(bucket, key, value, instance, hold)
            self._held[instance.id] = registration
            self._put(registration, hold)
            self._sweep_soon([registration])
            return registration

    async def replace(self, registration: Registration, value: bytes, instance: Instance) -> None:
        """Change a registration's value. Raises ConflictError, and what `Bucket.replace` raises."""
        async with self._lock(instance.id):
            hold = registration._hold
            revision = await registration._bucket.replace(
                registration._key, value, revision=hold.revision, leased=hold.ttl is not None
            )
            registration._value, registration._instance = value, instance
            registration._hold = lease.replaced(registration._hold, revision)

    async def release(self, registration: Registration) -> None:
        """Take back one `register`; the registration goes with the last."""
        async with self._lock(registration.id):
            registration._claims -= 1
            if registration._claims == 0 and self._held.get(registration.id) is registration:
                del self._held[registration.id]
                await self._delete(registration)

    async def unregister(self, id: InstanceId) -> None:
        """End a registration of ours; another owner's value under its id stays."""
        registration = self._held.pop(id, None)
        if registration is not None:
            async with self._lock(id):
                await self._delete(registration)

    async def _delete(self, registration: Registration) -> None:
        if registration.state is State.LOST:
            return
        bucket, key = registration._bucket, registration._key
        try:
            await bucket.delete(key, revision=registration._hold.revision)
        except ConflictError:
            entry = await bucket.get(key)
            # `close` may have cut off the answer to a registration that was being made again.
            again = entry is not None and registration._hold.gone and entry.value == registration._value
            if entry is not None and (entry.updated or again):
                await bucket.delete(key, revision=entry.revision)
            else:
                _log.info(
                    "%s was taken over before it was unregistered",
                    registration.id,
                    extra=log.fields("taken_over", id=registration.id),
                )

    def abandon(self) -> None:
        """Forget every registration, and leave it to its lease."""
        self._held.clear()

    async def close(self, timeout: float) -> None:
        """Unregister everything, unless nothing got done for `timeout` seconds: leases end what is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._forget_listener is not None:
            self._forget_listener()
        await _cancelled(self._tasks)
        leaving = {asyncio.create_task(self.unregister(id)) for id in list(self._held)}
        failed: list[BaseException] = []
        while leaving:
            done, leaving = await asyncio.wait(leaving, timeout=timeout)
            failed += [error for task in done if (error := task.exception()) is not None]
            if not done:
                break
        await _cancelled(leaving)
        if leaving or failed:
            count = len(leaving) + len(failed)
            reason = failed[0] if failed else f"no answer for {timeout:g} s"
            _log.warning(
                "%d registrations could not be unregistered; only a lease ends them now: %s",
                count,
                reason,
                extra=log.fields("not_unregistered", count=count, error=reason),
            )

    @property
    def _clock(self) -> Clock:
        return self._store.clock

    def _lock(self, id: InstanceId) -> asyncio.Lock:
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock

    # The schedule: a heap of (due, registration); an entry whose time is no longer its hold's is stale.

    def _put(self, registration: Registration, hold: lease.Hold) -> None:
        registration._hold = hold
        if hold.due == math.inf or self._held.get(registration.id) is not registration:
            return
        if self._forget_listener is None:
            self._forget_listener = self._store.on_reconnect(self._renew_all)
        heapq.heappush(self._schedule, (hold.due, next(self._order), registration))
        self._set_timer()

    def _set_timer(self) -> None:
        if not self._schedule:
            return
        due = self._schedule[0][0]
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_at(due, self._act)

    def _renew_all(self) -> None:
        now = self._clock.time()
        for registration in self._held.values():
            self._put(registration, lease.renewed_at_once(registration._hold, now))
        self._swept.clear()
        self._sweep_soon(self._held.values())

    def _act(self) -> None:
        self._timer = None
        now = self._clock.time()
        gone: list[Registration] = []
        while self._schedule and self._schedule[0][0] <= now + _WINDOW:
            due, _, registration = heapq.heappop(self._schedule)
            if registration._hold.due != due or self._held.get(registration.id) is not registration:
                continue
            match lease.step(registration._hold):
                case Step.RENEW:
                    self._due.setdefault(registration._bucket, OrderedDict())[registration] = None
                case Step.REGISTER:
                    gone.append(registration)
                case Step.NOTHING:
                    pass
        for bucket, waiting in self._due.items():
            wanted = min(math.ceil(len(waiting) / _RENEWED_TOGETHER), _RENEWING_AT_ONCE)
            for _ in range(wanted - self._renewing[bucket]):
                self._renewing[bucket] += 1
                self._spawn(self._renew_due(bucket, waiting))
        for at in range(0, len(gone), _AT_ONCE):
            self._spawn(self._register_again(gone[at : at + _AT_ONCE]))
        self._set_timer()

    def _sweep_soon(self, registrations: Iterable[Registration]) -> None:
        """Once after a start and a reconnect, look for ghosts beside our own instances."""
        for registration in registrations:
            component = ".".join(registration._key.split(".")[:2])
            if registration.lease_ttl is not None and (registration._bucket, component) not in self._swept:
                self._swept.add((registration._bucket, component))
                self._spawn(self._sweep(registration._bucket, component))

    async def _sweep(self, bucket: Bucket, component: str) -> None:
        # After the renewals, and not in step with everybody else.
        await asyncio.sleep(random.uniform(*_SWEEP_AFTER))  # noqa: S311 (spreads load)
        try:
            count = await bucket.sweep(component)
        except DiscoveryError as error:
            _log.debug(
                "no sweep of %s: %s",
                component,
                error,
                extra=log.fields("not_swept", prefix=component, error=error),
            )
        else:
            if count:
                _log.warning(
                    "%d instances below %s had no lease any more; they are removed",
                    count,
                    component,
                    extra=log.fields("swept", prefix=component, count=count),
                )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew_due(self, bucket: Bucket, waiting: OrderedDict[Registration, None]) -> None:
        try:
            while waiting:
                some = [waiting.popitem(last=False)[0] for _ in range(min(len(waiting), _RENEWED_TOGETHER))]
                await self._renew(bucket, [one for one in some if self._held.get(one.id) is one])
        finally:
            self._renewing[bucket] -= 1

    async def _renew(self, bucket: Bucket, registrations: list[Registration]) -> None:
        sent = self._clock.time()
        leases = [
            Lease(registration._key, registration._hold.revision, registration._hold.ttl or 0.0, self._owner)
            for registration in registrations
        ]
        self._stats.heartbeats += len(leases)
        answers: Sequence[Exception | None]
        try:
            answers = await bucket.renew(leases)
        except Exception as bug:
            # Here or below: it must not end the renewals.
            _log.exception(
                "could not renew %d leases",
                len(leases),
                extra=log.fields("not_renewed", count=len(leases), error=bug),
            )
            answers = [bug] * len(leases)
        self._stats.note_renewals(answers.count(None), self._clock.time() - sent)
        for registration, renewed, error in zip(registrations, leases, answers, strict=True):
            answer = Answer.RENEWED
            if isinstance(error, ConflictError):
                answer = Answer.FENCED
            elif error is not None:
                answer = Answer.SILENT
                _log.debug(
                    "no answer to the renewal of %s: %s",
                    registration.id,
                    error,
                    extra=log.fields("not_renewed", id=registration.id, error=error),
                )
            self._after(registration, answer, renewed.revision, sent)

    async def _register_again(self, registrations: Iterable[Registration]) -> None:
        await asyncio.gather(*(self._register_one_again(registration) for registration in registrations))

    async def _register_one_again(self, registration: Registration) -> None:
        async with self._lock(registration.id):
            if self._held.get(registration.id) is not registration:
                return
            hold = registration._hold
            sent = self._clock.time()
            try:
                found = await registration._bucket.restore(
                    registration._key, registration._value, ttl=hold.ttl, owner=self._owner
                )
            except EntryExistsError:
                self._after(registration, Answer.TAKEN, hold.revision, sent)
            except Exception as error:
                expected = isinstance(error, DiscoveryError)
                _log.warning(
                    "%s could not be registered again yet: %s",
                    registration.id,
                    error,
                    exc_info=not expected,
                    extra=log.fields("not_reregistered", id=registration.id, error=error),
                )
                self._after(registration, Answer.SILENT, hold.revision, sent)
            else:
                self._stats.reregistrations += 1
                self._adopt(registration, found)
                self._after(registration, Answer.REGISTERED, found.revision, sent)

    def _adopt(self, registration: Registration, found: Entry) -> None:
        """Go on with what another client's `update` made of our entry."""
        if found.value == registration._value:
            _log.info(
                "%s is registered again",
                registration.id,
                extra=log.fields("reregistered", id=registration.id),
            )
            return
        _log.info(
            "%s was updated by another client",
            registration.id,
            extra=log.fields("updated_by_another", id=registration.id),
        )
        registration._value = found.value
        registration._instance = wire.loads(found.value)

    def _after(self, registration: Registration, answer: Answer, revision: int, sent: float) -> None:
        before = registration._hold
        hold = lease.after(before, answer, revision, sent, self._clock.time(), _chance())
        self._put(registration, hold)
        if hold.gone and not before.gone:
            self._stats.fence_failures += 1
            _log.warning(
                "%s expired, or somebody changed or removed it",
                registration.id,
                extra=log.fields("gone", id=registration.id),
            )
        if hold.state is State.LOST and before.state is not State.LOST:
            _log.error(
                "%s is lost: another owner holds this id",
                registration.id,
                extra=log.fields("lost", id=registration.id),
            )
            if self._on_lost is not None:
                try:
                    self._on_lost(registration)
                except Exception:
                    _log.exception(
                        "on_lost failed for %s",
                        registration.id,
                        extra=log.fields("callback_failed", id=registration.id),
                    )


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _chance() -> float:
    return random.random()  # noqa: S311 (spreads load)
