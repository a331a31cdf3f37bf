"""Keeps registrations alive: renews their leases, and makes those again that were taken away."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from . import lease
from .errors import ConflictError, DiscoveryError, StoreUnavailableError
from .events import emit
from .lease import Answer, LeaseState, State, Step
from .model import InstanceId, Status
from .registration import Registration
from .renewals import Renewals
from .reports import FOUND, Reports
from .stats import Counters
from .store import RELEASED, Bucket, Entry, EntryExistsError, Found, Lease, Store
from .takeover import make
from .updates import Change, compare_and_set, status_of

__all__ = ["Upkeep", "chance"]


def chance() -> float:
    """Return a random number from 0 to 1."""
    return random.random()  # noqa: S311 (spreads load)


class Upkeep:
    """The work that registrations need while they are held.

    `owner` names their holder in the store. `held` returns them. `made` is called with each one that was
    pending and is registered now.
    """

    def __init__(
        self,
        store: Store,
        stats: Counters,
        reports: Reports,
        owner: str,
        *,
        held: Callable[[], Iterable[Registration]],
        made: Callable[[Registration], None],
    ) -> None:
        self._store = store
        self._clock = store.clock
        self._stats = stats
        self._reports = reports
        self._owner = owner
        self._held, self._made = held, made
        self._locks: weakref.WeakValueDictionary[InstanceId, asyncio.Lock] = weakref.WeakValueDictionary()
        self._forget_listener: Callable[[], None] | None = None
        self.renewals = Renewals(
            store.clock,
            stats,
            renew=self._renew,
            register=self._register_some,
            silent=self._note_silence,
            jumped=self.renew_all,
        )

    def lock(self, id: InstanceId) -> asyncio.Lock:
        """Return the lock that every write of `id` takes."""
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock

    def put(self, registration: Registration, state: LeaseState) -> None:
        """Give `registration` a new state: set when it is due, and tell of a change.

        A failed fence alone is not told: its meaning is known after the next look, within milliseconds.
        """
        registration._set(state)
        if not registration._is_held:
            return
        if state.due != lease.NEVER and self._forget_listener is None:
            self._forget_listener = self._store.on_reconnect(self.renew_all)
        self.renewals.put(registration)
        if state.state is not State.RECOVERING:
            self._reports.tell(registration)

    def renew_all(self) -> None:
        """Let every registration act now."""
        now = self._clock.time()
        for registration in tuple(self._held()):
            self.put(registration, lease.renewed_at_once(registration._lease, now))

    async def leave(self, registrations: Iterable[Registration]) -> None:
        """Renew leases for the last time, and note in them that the next process may take them over."""
        by_bucket: dict[Bucket, list[Registration]] = {}
        for one in registrations:
            if one.lease_ttl is not None and not one._lease.gone and not one._lease.is_over:
                by_bucket.setdefault(one._bucket, []).append(one)
        await asyncio.gather(*(self._leave(bucket, some) for bucket, some in by_bucket.items()))

    async def _leave(self, bucket: Bucket, some: list[Registration]) -> None:
        leases = [Lease(one._key, one.revision, one.lease_ttl or 0.0, RELEASED) for one in some]
        answers = await bucket.renew(leases)
        for one, answer in zip(some, answers, strict=True):
            if isinstance(answer, ConflictError):  # another client updated it, such as its status
                async with self.lock(one.id):
                    await self.restore(one)
                await bucket.renew([Lease(one._key, one.revision, one.lease_ttl or 0.0, RELEASED)])

    async def close(self) -> None:
        """Let nothing fall due any more, and end what runs."""
        if self._forget_listener is not None:
            self._forget_listener()
        await self.renewals.close()

    async def create(self, registration: Registration, ttl: float | None) -> LeaseState:
        """Write the value of `registration` under a lease of `ttl` seconds; return its state then.

        The caller has its lock. Raises what `make` raises.
        """
        sent = self._clock.time()
        revision = await make(registration, registration._write(self._owner, ttl))
        return lease.started(ttl, revision, sent, chance())

    async def write(self, registration: Registration, change: Change) -> None:
        """Write what `change` makes of a registration, over what this process knows to lie there.

        The caller has its lock. Raises what `compare_and_set` raises.
        """
        current = registration._write(self._owner, registration.lease_ttl)
        registration._value, registration._instance, revision = await compare_and_set(
            registration._bucket, current, registration.revision, registration.instance, change
        )
        registration._set(lease.replaced(registration._lease, revision))

    async def restore(self, registration: Registration) -> None:
        """Have a registration back that may be gone, or find it lost. The caller has its lock.

        Raises what `Bucket.restore` raises, but EntryExistsError.
        """
        before = registration._lease
        sent = self._clock.time()
        try:
            restored = await registration._bucket.restore(registration._write(self._owner, before.ttl))
        except EntryExistsError as error:
            self._after(registration, Answer.TAKEN, before.revision, sent, 0.0, error)
            return
        self._stats.reregistrations += 1
        if restored.found is Found.UPDATED:
            self.adopt(registration, restored.entry)
        elif restored.found is not Found.SAME:
            self._reports.note(FOUND[restored.found], registration.id)
            gone = ConflictError(f"{registration.id} was gone: {restored.found}")
            registration._set(lease.noted(registration._lease, gone))
            self._reports.tell(registration, logged=True)
        self._after(registration, Answer.REGISTERED, restored.entry.revision, sent, chance())

    def adopt(self, registration: Registration, found: Entry) -> None:
        """Go on with what another client's update made of our entry."""
        before, instance = registration.instance, registration._decode(found)
        registration._value, registration._instance = found.value, instance
        drained = status_of(instance) is Status.DRAINING is not status_of(before)
        self._reports.note("drained_by_another" if drained else "updated_by_another", registration.id)

    async def adopt_newest(self, registration: Registration) -> bool:
        """After a failed `write`, see what is there now; return whether that is ours to change.

        The caller has its lock. Raises what `restore` raises.
        """
        if registration.lease_ttl is not None:
            await self.restore(registration)
            return not registration._lease.is_over
        # Without a lease, what another client removed stays removed.
        found = await registration._bucket.get(registration._key)
        if found is None or not found.updated or not registration._is_mine(found):
            return False
        self.adopt(registration, found)
        registration._set(lease.replaced(registration._lease, found.revision))
        return True

    async def _renew(self, bucket: Bucket, registrations: list[Registration]) -> None:
        registrations = [one for one in registrations if one._is_held]
        if not registrations:
            return
        sent = self._clock.time()
        leases = [Lease(one._key, one.revision, one.lease_ttl or 0.0, self._owner) for one in registrations]
        self._stats.heartbeats += len(leases)
        answers: Sequence[Exception | None] = await bucket.renew(leases)
        self._stats.note_renewals(sum(answer is None for answer in answers), self._clock.time() - sent)
        # The same for all: what found no answer together is sent again together.
        retry = chance()
        for registration, renewed, error in zip(registrations, leases, answers, strict=True):
            if error is None:
                self._after(registration, Answer.RENEWED, renewed.revision, sent, chance())
                if bucket.is_due(registration._key):
                    self.renewals.run("signing again", partial(self._sign_again, registration))
            elif isinstance(error, ConflictError):
                self._after(registration, Answer.FENCED, renewed.revision, sent, retry, error)
            else:
                self._fail(registration, error, renewed.revision, sent, retry)

    async def _sign_again(self, registration: Registration) -> None:
        """Write a registration once more, as it is: its signature is about to end."""
        async with self.lock(registration.id):
            bucket = registration._bucket
            if not registration._is_held or registration._lease.gone or not bucket.is_due(registration._key):
                return
            try:
                await self.write(registration, lambda instance: instance)
            except DiscoveryError as error:
                # The next renewal tries again, or finds out what happened.
                emit("not_signed", id=registration.id, error=error)

    async def _register_some(self, bucket: Bucket, registrations: list[Registration]) -> None:
        retry = chance()
        done = await asyncio.gather(
            *(self._register_one(registration, retry) for registration in registrations),
            return_exceptions=True,
        )
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _register_one(self, registration: Registration, retry: float) -> None:
        """Make a registration that is pending, or make one again that is gone."""
        async with self.lock(registration.id):
            if not registration._is_held or lease.step(registration._lease) is not Step.REGISTER:
                return
            sent = self._clock.time()
            try:
                if registration.state is State.PENDING:
                    registration._is_begun = True
                    self.put(registration, await self.create(registration, registration.lease_ttl))
                    self._made(registration)
                else:
                    await self.restore(registration)
            except DiscoveryError as error:
                self._fail(registration, error, registration.revision, sent, retry)

    def _note_silence(self, registrations: Iterable[Registration], error: DiscoveryError) -> None:
        """Note that registrations wait for the connection."""
        now, refused = self._clock.time(), not isinstance(error, StoreUnavailableError)
        for registration in registrations:
            registration._set(lease.unheard(registration._lease, now, error, refused=refused))
            self._reports.tell(registration)

    def _fail(
        self, registration: Registration, error: Exception, revision: int, sent: float, retry: float
    ) -> None:
        """Note that a step found no answer, or a refusal."""
        if not isinstance(error, DiscoveryError):
            error = StoreUnavailableError(f"could not renew the lease of {registration.id}: {error!r}")
        answer = Answer.SILENT if isinstance(error, StoreUnavailableError) else Answer.REFUSED
        emit("not_renewed", id=registration.id, error=error)
        self._after(registration, answer, revision, sent, retry, error)
        self._reports.tell(registration)

    def _after(
        self,
        registration: Registration,
        answer: Answer,
        revision: int,
        sent: float,
        chance: float,
        error: DiscoveryError | None = None,
    ) -> None:
        before = registration._lease
        state = lease.apply(before, answer, revision, sent, self._clock.time(), chance, error)
        if state.gone and not before.gone:
            self._stats.fence_failures += 1
        self.put(registration, state)
