"""The registrations of one Discovery: making them, changing them, and ending them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from contextlib import suppress

from . import entry, lease
from .errors import AlreadyRegisteredError, ClosedError, ConflictError, DiscoveryError, PayloadTooLargeError
from .events import emit
from .health import HealthCheck, HealthChecks
from .lease import LeaseState, State
from .model import Instance, InstanceId, Status
from .registration import Registration
from .reports import OnChange, Reports
from .stats import Counters
from .store import Bucket, Store
from .sweeping import Sweeping
from .updates import Change, change_foreign, status_of, with_status
from .upkeep import Upkeep

__all__ = ["OnChange", "Registrar", "Registration"]


class Registrar:
    """The registrations of one Discovery."""

    def __init__(
        self,
        store: Store,
        stats: Counters,
        on_lost: OnChange | None = None,
        on_state: OnChange | None = None,
    ) -> None:
        self._store = store
        self._stats = stats
        # Tells our leases from those of another process that was given the same instance id.
        self._owner = secrets.token_hex(8)
        self._held: dict[InstanceId, Registration] = {}
        self._sweeping = Sweeping(self.held_keys, stats)
        self._health = HealthChecks(store.clock, stats, self._set_healthy)
        self._reports = Reports(stats, on_lost, on_state)
        self._upkeep = Upkeep(
            store, stats, self._reports, self._owner, held=self._held.values, made=self._sweeping.keep_swept
        )

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process."""
        return tuple(self._held.values())

    def find(self, id: InstanceId) -> Registration | None:
        """Return the registration of `id`, if it is ours."""
        return self._held.get(id)

    def held_keys(self, bucket: Bucket) -> frozenset[str]:
        """Return the keys in `bucket` that this process holds, and that no sweep may remove."""
        held = self._held.values()
        return frozenset(one._key for one in held if one._bucket is bucket and not one._lease.is_over)

    async def register(
        self, instance: Instance, ttl: float | None, health: HealthCheck | None = None
    ) -> Registration:
        """Make a registration, or see to it that the same one is still there.

        With `health`, its status follows that check.
        Raises AlreadyRegisteredError, and what `Bucket.create` raises.
        """
        wanted = self._new(instance, ttl)
        async with self._upkeep.lock(instance.id):
            held = self._same(wanted)
            if held is not None and not held._lease.is_over:
                ttl = held.lease_ttl
            state = await self._upkeep.create(held or wanted, ttl)
            held = self._same(wanted)  # it may have been announced meanwhile
            if held is not None:
                held._claims += 1
            else:
                self._hold(wanted)
                wanted._told = state.state
            registration = held or wanted
            self._upkeep.put(registration, state)
            self._sweeping.keep_swept(registration)
            self._health.follow(registration, health)
            return registration

    def announce(
        self, instance: Instance, ttl: float | None, health: HealthCheck | None = None
    ) -> Registration:
        """Return a registration that is made as soon as possible; the same one for the same value.

        Raises AlreadyRegisteredError if this process holds another value under the id.
        """
        wanted = self._new(instance, ttl)
        held = self._same(wanted)
        if held is not None and not held._lease.is_over:
            held._claims += 1
            self._health.follow(held, health)
            return held
        other = self._held.get(wanted.id)
        if other is not None and not other._lease.is_over:
            raise self._taken(other)
        self._hold(wanted)
        self._upkeep.put(wanted, wanted._lease)
        self._health.follow(wanted, health)
        return wanted

    async def change(
        self, instance: Instance, change: Change, fields: Collection[str] = (), *, exactly: bool = True
    ) -> Instance:
        """Apply `change` to what is registered as `instance`; return what is registered then.

        An instance of this process is changed as this process last knew it. If another client was first, its
        value is adopted, and the change is applied to that unless both changed one of `fields`. For
        instances of others see `change_foreign`.
        Raises ConflictError, and what `Bucket.get`, `Bucket.replace` and `change` raise.
        """
        registration = self._held.get(instance.id)
        if registration is None or registration.state is State.FAILED:
            bucket = self._store.bucket(entry.bucket_of(instance.id))
            return await change_foreign(bucket, instance, change, exactly=exactly)
        async with self._upkeep.lock(instance.id):
            await self._change_own(registration, change, fields)
            return registration.instance

    async def _change_own(self, registration: Registration, change: Change, fields: Collection[str]) -> None:
        if registration.state is State.LOST:
            raise ConflictError(
                f"cannot change {registration.id}: it is lost, because another owner holds this id; "
                "register again when that has ended"
            )
        if registration._lease.is_over:
            raise ConflictError(f"cannot change {registration.id}: it was unregistered meanwhile")
        before = registration.instance
        if registration.state is State.PENDING:
            registration._become(change(before))
            return
        try:
            await self._upkeep.write(registration, change)
        except ConflictError:
            try:
                if not await self._upkeep.adopt_newest(registration):
                    raise
            except PayloadTooLargeError:
                # The old value is gone and cannot come back: the new one comes in its place.
                await self._restore_as(registration, change(before))
                return
        else:
            return
        newest = registration.instance
        if change(newest) == newest:
            return
        both = [name for name in fields if getattr(before, name) != getattr(newest, name)]
        if both:
            raise ConflictError(
                f"cannot change {registration.id}: another client changed its {', '.join(both)} at the same "
                "time; look at what is registered now, and change that"
            )
        await self._upkeep.write(registration, change)

    async def _restore_as(self, registration: Registration, instance: Instance) -> None:
        """Have a registration back with another value."""
        before = registration.instance
        registration._become(instance)
        try:
            await self._upkeep.restore(registration)
        except BaseException:
            registration._become(before)
            raise

    async def release(self, registration: Registration) -> None:
        """Take back one `register`; the registration goes with the last.

        Raises what `unregister` raises.
        """
        async with self._upkeep.lock(registration.id):
            registration._claims -= 1
            if registration._claims <= 0 and self._held.get(registration.id) is registration:
                await self._end(registration)

    async def unregister(self, id: InstanceId) -> None:
        """End a registration of ours, a pending one too; another owner's value under its id stays.

        Raises what `Bucket.delete` and `Bucket.get` raise, but ConflictError.
        """
        # A call that waits for the lock may replace the registration: the one that is held then has to go.
        async with self._upkeep.lock(id):
            registration = self._held.get(id)
            if registration is not None:
                await self._end(registration)

    async def _end(self, registration: Registration) -> None:
        before = registration._lease
        self._let_go(registration, ClosedError(f"{registration.id} was unregistered"))
        if not before.is_over and (before.state is not State.PENDING or registration._is_begun):
            await self._delete(registration, before)
        await self._health.end(registration)

    async def _delete(self, registration: Registration, before: LeaseState) -> None:
        bucket, key = registration._bucket, registration._key
        if before.state is not State.PENDING:
            with suppress(ConflictError):
                await bucket.delete(key, revision=before.revision, lease_ttl=before.ttl)
                return
        found = await bucket.get(key)
        if found is None:
            return
        # `close` may have cut off the answer to a registration that was being made, or made again.
        again = before.gone and found.value == registration._value
        updated = found.updated and before.state is not State.PENDING
        if updated or again or not registration._is_mine(found):
            await bucket.delete(key, revision=found.revision, lease_ttl=found.lease_ttl)
        else:
            emit("taken_over", id=registration.id)

    def abandon(self) -> None:
        """Forget every registration, and leave it to its lease."""
        self._let_go_all("it was left to its lease")

    def _let_go_all(self, why: str) -> None:
        for registration in self.registrations:
            self._let_go(registration, ClosedError(f"{registration.id} is not held any more: {why}"))

    async def close(self, timeout: float, *, keep: bool = False) -> None:
        """Unregister everything, unless nothing got done for `timeout` seconds: leases end what is left.

        With `keep`, leave everything as it is, under a last renewal of its lease.
        """
        self._sweeping.end()
        await self._upkeep.close()
        self._reports.flush()
        if keep:
            await self._leave(timeout)
            return
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
            reason = failed[0] if failed else f"no answer for {timeout:g} s"
            emit("not_unregistered", count=len(leaving) + len(failed), error=reason)
        await self._health.aclose()

    async def _leave(self, timeout: float) -> None:
        left = self.registrations
        try:
            with suppress(TimeoutError, DiscoveryError):  # the leases go on, and end by themselves
                async with asyncio.timeout(timeout):
                    await self._upkeep.leave(left)
        finally:
            self._let_go_all("this Discovery was closed, and left it for a restart")
        if left:
            emit("kept", count=len(left), id=left[0].id)
        await self._health.aclose()

    async def _set_healthy(self, registration: Registration, healthy: bool) -> None:
        """Set the status that a check asks for, unless somebody has set another one."""
        wanted = Status.SERVING if healthy else Status.UNHEALTHY
        replaced = Status.UNHEALTHY if healthy else Status.SERVING

        def change(instance: Instance) -> Instance:
            return with_status(instance, wanted) if status_of(instance) is replaced else instance

        async with self._upkeep.lock(registration.id):
            if not registration._lease.is_over and status_of(registration.instance) is replaced:
                await self._change_own(registration, change, ())

    def _new(self, instance: Instance, ttl: float | None) -> Registration:
        bucket = self._store.bucket(entry.bucket_of(instance.id))
        return Registration(bucket, instance, lease.pending(ttl, self._store.clock.time()))

    def _same(self, wanted: Registration) -> Registration | None:
        """Return the registration that is held with the value of `wanted`, whatever its status."""
        held = self._held.get(wanted.id)
        if held is None or with_status(held.instance, Status.SERVING) != wanted.instance:
            return None
        return held

    def _hold(self, registration: Registration) -> None:
        other = self._held.get(registration.id)
        if other is not None:
            self._let_go(other, self._taken(registration))
        self._held[registration.id] = registration

    def _let_go(self, registration: Registration, error: DiscoveryError) -> None:
        self._held.pop(registration.id, None)
        registration._end(error)
        self._upkeep.renewals.let_go(registration)

    @staticmethod
    def _taken(by: Registration) -> AlreadyRegisteredError:
        return AlreadyRegisteredError(
            f"{by.id} is registered, or announced, with another value by this process; unregister it, "
            "update it, or use another instance id",
            by.instance,
        )
