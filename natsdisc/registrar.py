"""Keeps this process's registrations alive: renews their leases, and registers again what was taken away."""

from __future__ import annotations

import asyncio
import random
import secrets
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from . import entry, lease, log, reports, wire
from .clock import Clock
from .errors import (
    ClosedError,
    ConflictError,
    DiscoveryError,
    InvalidValueError,
    PayloadTooLargeError,
    StoreUnavailableError,
)
from .lease import Answer, State, Step
from .model import EndpointInstance, Instance, InstanceId, Status, kind_of
from .registration import Registration
from .renewals import Renewals
from .reports import Reports
from .stats import Counters
from .store import Bucket, Entry, EntryExistsError, Found, Lease, Store, Valid, Write

__all__ = ["OnChange", "Registrar", "Registration"]

_log = log.logger(__name__)

OnChange = Callable[[Registration], object]


class Registrar:
    """The registrations of one Discovery, renewed by one timer."""

    def __init__(
        self,
        store: Store,
        stats: Counters,
        on_lost: OnChange | None = None,
        on_state: OnChange | None = None,
    ) -> None:
        self._store = store
        self._stats = stats
        self._on_lost = on_lost
        self._on_state = on_state
        # Tells our leases from those of another process that was given the same instance id.
        self._owner = secrets.token_hex(8)
        self._held: dict[InstanceId, Registration] = {}
        self._locks: weakref.WeakValueDictionary[InstanceId, asyncio.Lock] = weakref.WeakValueDictionary()
        self._swept: dict[tuple[Bucket, str], Callable[[], None]] = {}
        self._holders: dict[Bucket, _Holder] = {}
        self._reports = Reports()
        self._renewals = Renewals(
            store.clock,
            stats,
            renew=self._renew,
            restore=self._register_again,
            silent=self._note_silence,
            jumped=self._renew_all,
        )
        self._forget_listener: Callable[[], None] | None = None

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process."""
        return tuple(self._held.values())

    def find(self, id: InstanceId) -> Registration | None:
        """Return the registration of `id`, if it is ours."""
        return self._held.get(id)

    def held_keys(self, bucket: Bucket) -> frozenset[str]:
        """Return the keys in `bucket` that this process holds, and that no sweep may remove."""
        return frozenset(
            one._key for one in self._held.values() if one._bucket is bucket and one.state is not State.LOST
        )

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
            write = Write(key, value, ttl, self._owner, _validator(instance.id, key))
            revision = await bucket.create(write)
            hold = lease.started(ttl, revision, sent, _chance())
            if held is not None and held._value == value:
                self._put(held, hold)
                held._claims += 1
                return held
            if held is not None:
                self._let_go(held)
            registration = Registration(bucket, key, value, instance, hold)
            self._held[instance.id] = registration
            self._put(registration, hold)
            self._keep_swept(registration)
            return registration

    async def update(
        self, registration: Registration, change: Callable[[Instance], Instance], fields: Iterable[str]
    ) -> Instance:
        """Apply `change` to the newest value of a registration; return what is registered then.

        Updates of one registration wait for each other. If another client was first, its value is adopted,
        and the change is applied to that unless both changed one of `fields`.
        Raises ConflictError, and what `Bucket.replace` and `change` raise.
        """
        fields = tuple(fields)
        async with self._lock(registration.id):
            if registration.state is State.LOST:
                raise ConflictError(
                    f"cannot update {registration.id}: it is lost, because another owner holds this id; "
                    "register again when that has ended"
                )
            try:
                return await self._apply(registration, change)
            except ConflictError:
                before = registration._instance
                try:
                    if not registration._is_held or not await self._adopt_newest(registration):
                        raise
                except PayloadTooLargeError:
                    # The old value is gone and cannot come back: the new one comes in its place.
                    return await self._restore_as(registration, change(before))
                newest = registration._instance
                both = [name for name in fields if getattr(before, name) != getattr(newest, name)]
                if both:
                    raise ConflictError(
                        f"cannot update {registration.id}: another client changed its {', '.join(both)} at "
                        "the same time; look at what is registered now, and update that"
                    ) from None
                return await self._apply(registration, change)

    async def _apply(self, registration: Registration, change: Callable[[Instance], Instance]) -> Instance:
        value = wire.dumps(change(registration._instance))
        changed = wire.loads(value)
        await self._write(registration, value)
        registration._value, registration._instance = value, changed
        return changed

    async def _write(self, registration: Registration, value: bytes) -> None:
        hold = registration._hold
        write = Write(registration._key, value, hold.ttl, self._owner)
        revision = await registration._bucket.replace(write, revision=hold.revision)
        registration._hold = lease.replaced(registration._hold, revision)

    async def _restore_as(self, registration: Registration, instance: Instance) -> Instance:
        """Have a registration back with another value. The caller has its lock."""
        kept = registration._value, registration._instance
        registration._value = wire.dumps(instance)
        registration._instance = wire.loads(registration._value)
        try:
            await self._restore(registration)
        except BaseException:
            registration._value, registration._instance = kept
            raise
        return registration._instance

    async def _adopt_newest(self, registration: Registration) -> bool:
        """After a failed update, see what is there now; return whether that is ours to change."""
        if registration.lease_ttl is not None:
            await self._restore(registration)
            return registration.state is not State.LOST
        # Without a lease, what another client removed stays removed.
        found = await registration._bucket.get(registration._key)
        valid = _validator(registration.id, registration._key)
        if found is None or not found.updated or not valid(found):
            return False
        self._adopt(registration, found)
        registration._hold = lease.replaced(registration._hold, found.revision)
        return True

    async def release(self, registration: Registration) -> None:
        """Take back one `register`; the registration goes with the last."""
        async with self._lock(registration.id):
            registration._claims -= 1
            if registration._claims == 0 and self._held.get(registration.id) is registration:
                self._let_go(registration)
                await self._delete(registration)

    async def unregister(self, id: InstanceId) -> None:
        """End a registration of ours; another owner's value under its id stays."""
        # What waits for the lock may replace the registration: the one that is held then has to go.
        async with self._lock(id):
            registration = self._held.get(id)
            if registration is not None:
                self._let_go(registration)
                await self._delete(registration)

    def _let_go(self, registration: Registration) -> None:
        self._held.pop(registration.id, None)
        registration._is_held = False
        self._renewals.let_go(registration)

    async def _delete(self, registration: Registration) -> None:
        if registration.state is State.LOST:
            return
        bucket, key = registration._bucket, registration._key
        try:
            await bucket.delete(key, revision=registration._hold.revision, lease_ttl=registration.lease_ttl)
        except ConflictError:
            found = await bucket.get(key)
            if found is None:
                return
            # `close` may have cut off the answer to a registration that was being made again.
            again = registration._hold.gone and found.value == registration._value
            if found.updated or again or not _validator(registration.id, key)(found):
                await bucket.delete(key, revision=found.revision, lease_ttl=found.lease_ttl)
            else:
                _log.info(
                    "%s was taken over before it was unregistered",
                    registration.id,
                    extra=log.fields("taken_over", id=registration.id),
                )

    def abandon(self) -> None:
        """Forget every registration, and leave it to its lease."""
        for registration in self.registrations:
            self._let_go(registration)

    async def close(self, timeout: float) -> None:
        """Unregister everything, unless nothing got done for `timeout` seconds: leases end what is left."""
        if self._forget_listener is not None:
            self._forget_listener()
        for end in self._swept.values():
            end()
        self._swept.clear()
        await self._renewals.close()
        self._reports.flush()
        leaving = {asyncio.create_task(self.unregister(id)) for id in list(self._held)}
        failed: list[BaseException] = []
        while leaving:
            done, leaving = await asyncio.wait(leaving, timeout=timeout)
            failed += [error for task in done if (error := task.exception()) is not None]
            if not done:
                break
        for task in leaving:
            task.cancel()
        if leaving:
            await asyncio.wait(leaving)
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

    @property
    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._renewals._tasks

    def _lock(self, id: InstanceId) -> asyncio.Lock:
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock

    def _put(self, registration: Registration, hold: lease.Hold) -> None:
        """Take a new hold: set when it is due, and tell of a change of its state."""
        registration._hold = hold
        if not registration._is_held:
            return
        if hold.due != lease.NEVER and self._forget_listener is None:
            self._forget_listener = self._store.on_reconnect(self._renew_all)
        self._renewals.put(registration)
        if hold.state is State.ACTIVE or hold.state is State.LOST:
            self._tell(registration)

    def _renew_all(self) -> None:
        now = self._clock.time()
        for registration in self.registrations:
            self._put(registration, lease.renewed_at_once(registration._hold, now))

    def _keep_swept(self, registration: Registration) -> None:
        """Have the component of a leased instance kept free of dead ones, as long as this process lives."""
        place = registration._bucket, ".".join(registration._key.split(".")[:2])
        if registration.lease_ttl is not None and place not in self._swept:
            bucket = registration._bucket
            holder = self._holders.setdefault(bucket, _Holder(self.held_keys, bucket, self._stats))
            self._swept[place] = bucket.keep_swept(place[1], holder)

    # Renewing.

    async def _renew(self, bucket: Bucket, registrations: list[Registration]) -> None:
        registrations = [one for one in registrations if one._is_held]
        if not registrations:
            return
        sent = self._clock.time()
        leases = [
            Lease(registration._key, registration._hold.revision, registration._hold.ttl or 0.0, self._owner)
            for registration in registrations
        ]
        self._stats.heartbeats += len(leases)
        answers: Sequence[Exception | None] = await bucket.renew(leases)
        self._stats.note_renewals(sum(answer is None for answer in answers), self._clock.time() - sent)
        # The same for all: what found no answer together is sent again together.
        retry = _chance()
        for registration, renewed, error in zip(registrations, leases, answers, strict=True):
            if error is None:
                self._after(registration, Answer.RENEWED, renewed.revision, sent, _chance())
                if bucket.is_due(registration._key):
                    self._renewals.run("signing again", partial(self._sign_again, registration))
            elif isinstance(error, ConflictError):
                registration._error = error
                self._after(registration, Answer.FENCED, renewed.revision, sent, retry)
            else:
                self._fail(registration, error, renewed.revision, sent, retry)

    async def _sign_again(self, registration: Registration) -> None:
        """Write a registration once more, as it is: its signature is about to end."""
        async with self._lock(registration.id):
            bucket = registration._bucket
            if not registration._is_held or registration._hold.gone or not bucket.is_due(registration._key):
                return
            try:
                await self._write(registration, registration._value)
            except DiscoveryError as error:
                # The next renewal tries again, or finds out what happened.
                _log.debug(
                    "%s could not be signed again: %s",
                    registration.id,
                    error,
                    extra=log.fields("not_signed", id=registration.id, error=error),
                )

    async def _register_again(self, bucket: Bucket, registrations: list[Registration]) -> None:
        retry = _chance()
        done = await asyncio.gather(
            *(self._register_one_again(registration, retry) for registration in registrations),
            return_exceptions=True,
        )
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _register_one_again(self, registration: Registration, retry: float) -> None:
        async with self._lock(registration.id):
            if registration._is_held and lease.step(registration._hold) is Step.REGISTER:
                sent = self._clock.time()
                try:
                    await self._restore(registration)
                except DiscoveryError as error:
                    self._fail(registration, error, registration._hold.revision, sent, retry)

    async def _restore(self, registration: Registration) -> None:
        """Have a registration back that may be gone, or find it lost. The caller has its lock.

        Raises what `Bucket.restore` raises, but EntryExistsError.
        """
        key, hold = registration._key, registration._hold
        sent = self._clock.time()
        write = Write(key, registration._value, hold.ttl, self._owner, _validator(registration.id, key))
        try:
            restored = await registration._bucket.restore(write)
        except EntryExistsError as error:
            registration._error = error
            self._after(registration, Answer.TAKEN, hold.revision, sent, 0.0)
            return
        self._stats.reregistrations += 1
        if restored.found is Found.UPDATED:
            self._adopt(registration, restored.entry)
        elif restored.found is not Found.SAME:
            self._reports.note(reports.FOUND[restored.found], registration.id)
            # It was away, if only for a moment.
            registration._hold = lease.unheard(registration._hold, sent, refused=True)
            registration._error = ConflictError(f"{registration.id} was gone: {restored.found}")
            self._tell(registration, logged=True)
        self._after(registration, Answer.REGISTERED, restored.entry.revision, sent, _chance())

    def _adopt(self, registration: Registration, found: Entry) -> None:
        """Go on with what another client's `update` made of our entry."""
        before, instance = registration._instance, _decoded(registration.id, registration._key, found.value)
        registration._value, registration._instance = found.value, instance
        drained = _is_draining(instance) and not _is_draining(before)
        self._reports.note(reports.DRAINED if drained else reports.UPDATED, registration.id)

    def _note_silence(self, registrations: Iterable[Registration], error: DiscoveryError) -> None:
        """Note that registrations wait for the connection."""
        now, refused = self._clock.time(), not isinstance(error, StoreUnavailableError)
        for registration in registrations:
            registration._error = error
            registration._hold = lease.unheard(registration._hold, now, refused=refused)
            self._tell(registration)

    def _fail(
        self, registration: Registration, error: Exception, revision: int, sent: float, chance: float
    ) -> None:
        """Note that a step found no answer, or a refusal."""
        if not isinstance(error, DiscoveryError):
            error = StoreUnavailableError(f"could not renew the lease of {registration.id}: {error!r}")
        registration._error = error
        answer = Answer.SILENT if isinstance(error, StoreUnavailableError) else Answer.REFUSED
        _log.debug(
            "no renewal of %s: %s",
            registration.id,
            error,
            extra=log.fields("not_renewed", id=registration.id, error=error),
        )
        self._after(registration, answer, revision, sent, chance)
        self._tell(registration)

    def _after(
        self, registration: Registration, answer: Answer, revision: int, sent: float, chance: float
    ) -> None:
        before = registration._hold
        hold = lease.after(before, answer, revision, sent, self._clock.time(), chance)
        if hold.gone and not before.gone:
            self._stats.fence_failures += 1
        if hold.state is State.ACTIVE and answer in (Answer.RENEWED, Answer.REGISTERED):
            registration._error = None
        self._put(registration, hold)

    def _tell(self, registration: Registration, *, logged: bool = False) -> None:
        """Write (unless it is `logged` already) and call what a change of state asks for.

        A failed fence alone is not told: its meaning is known after the next look, within milliseconds.
        """
        state, before = registration.state, registration._told
        if state is before or not registration._is_held:
            return
        registration._told = state
        if state is State.RECOVERING and not logged:
            closed = isinstance(registration._error, ClosedError)
            registration._is_logged = True
            self._reports.note(
                reports.CLOSED if closed else reports.RECOVERING, registration.id, registration._error
            )
        elif state is State.ACTIVE and registration._is_logged:
            registration._is_logged = False
            self._reports.note(reports.ACTIVE, registration.id)
        elif state is State.LOST:
            _log.error(
                "%s is lost: another owner holds this id",
                registration.id,
                extra=log.fields("lost", id=registration.id),
            )
        self._call("on_state", self._on_state, registration)
        if state is State.LOST:
            self._call("on_lost", self._on_lost, registration)

    def _call(self, name: str, callback: OnChange | None, registration: Registration) -> None:
        if callback is None:
            return
        try:
            callback(registration)
        except Exception:
            self._stats.task_failures += 1
            _log.exception(
                "%s failed for %s",
                name,
                registration.id,
                extra=log.fields("callback_failed", id=registration.id, callback=name),
            )


class _Holder:
    """The answers that the sweeps of one bucket want from a Registrar."""

    def __init__(self, held: Callable[[Bucket], frozenset[str]], bucket: Bucket, stats: Counters) -> None:
        self._held, self._bucket, self._stats = held, bucket, stats

    def held(self) -> frozenset[str]:
        return self._held(self._bucket)

    def note_swept(self, count: int) -> None:
        self._stats.swept += count

    def note_wrong_copy(self) -> None:
        self._stats.wrong_copies += 1


def _decoded(id: InstanceId, key: str, value: bytes) -> Instance:
    return entry.decode(kind_of(id), key, value)


def _validator(id: InstanceId, key: str) -> Valid:
    """Return a function that tells whether a value is one of `id`: any other is nobody's."""

    def valid(found: Entry) -> bool:
        try:
            return found.trusted and _decoded(id, key, found.value).id == id
        except InvalidValueError:
            return False

    return valid


def _is_draining(instance: Instance) -> bool:
    return isinstance(instance, EndpointInstance) and instance.status is Status.DRAINING


def _chance() -> float:
    return random.random()  # noqa: S311 (spreads load)
