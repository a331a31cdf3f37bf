"""The half of a Discovery that writes: this process's own place in the registry, and changes of others'."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from . import cards, entry, keys
from .addresses import check_address
from .errors import ClosedError, ConflictError, DiscoveryError, InvalidValueError
from .events import emit
from .health import Health, HealthCheck, checked_health
from .model import (
    EndpointInstance,
    EndpointSpec,
    EventChannelInstance,
    EventChannelSpec,
    EventSourceInstance,
    EventSourceSpec,
    Instance,
    InstanceId,
    ModelCardInstanceId,
    ModelInstance,
    ModelSpec,
    Query,
    Spec,
    Status,
    Transport,
)
from .options import UNSET, Unset, checked_ttl
from .registrar import Registrar, Registration
from .store import Store
from .tasks import Tasks
from .updates import with_status

__all__ = ["RegisterOptions", "Registering"]

_InstanceT = TypeVar("_InstanceT", bound=Instance)
_Ttl: TypeAlias = "float | Unset | None"


class RegisterOptions(TypedDict, total=False):
    """The options of `register`, `announce` and `registered`."""

    lease_ttl: float | None
    health: Health | None
    health_interval: float
    health_failures: int
    health_successes: int


class Registering:
    """Registers instances and changes them; a part of `Discovery`."""

    _store: Store
    _registrar: Registrar
    _tasks: Tasks
    _instance_id: int
    _lease_ttl: float | None
    _is_draining: bool
    _models: str | None

    def _check_open(self, *, needs_loop: bool = True) -> None:
        raise NotImplementedError

    async def _cards_at(self, place: ModelInstance | ModelCardInstanceId) -> builtins.list[ModelInstance]:
        raise NotImplementedError

    @property
    def instance_id(self) -> int:
        """This process's id, an unsigned 64-bit integer."""
        return self._instance_id

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of this process, each with its state; pending ones too."""
        return self._registrar.registrations

    @overload
    async def register(self, spec: EndpointSpec, **options: Unpack[RegisterOptions]) -> EndpointInstance: ...

    @overload
    async def register(
        self, spec: EventChannelSpec, **options: Unpack[RegisterOptions]
    ) -> EventChannelInstance: ...

    @overload
    async def register(
        self, spec: EventSourceSpec, **options: Unpack[RegisterOptions]
    ) -> EventSourceInstance: ...

    @overload
    async def register(self, spec: ModelSpec, **options: Unpack[RegisterOptions]) -> ModelInstance: ...

    async def register(
        self,
        spec: Spec,
        *,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> Instance:
        """Put an instance into the registry until it is unregistered, or this process dies.

        `lease_ttl` (seconds, None for no lease) is how long it outlives its process; by default it is the
        Discovery's. The same spec again returns the same instance, whatever its status. Where an earlier
        process under the same `instance_id` left the same instance, it is taken over with its status.

        `health` is an async function that is asked at once and then every `health_interval` seconds. When it
        returns False, raises, or does not answer within the interval, `health_failures` times in a row, the
        status becomes `unhealthy`; after `health_successes` good answers in a row, `serving` again. It
        changes no other status. It must not block the event loop, since renewals run there too.

        If the call is cancelled, it ends within half a second, and takes back the registration that it began:
        in the background, or by `close`, if need be.
        Raises AlreadyRegisteredError, InvalidNameError, InvalidValueError, PayloadTooLargeError,
        UnsupportedServerError, PermissionDeniedError, StoreUnavailableError, WrongLoopError, and ClosedError,
        also while a `close` drains.

        >>> await discovery.register(  # doctest: +SKIP
        ...     EndpointSpec("shop", "cart", "checkout", transport=Transport.http("http://10.0.0.7:80")),
        ...     health=database.ping,
        ... )
        """
        check = checked_health(health, health_interval, health_failures, health_successes)
        return (await self._register(spec, lease_ttl, check)).instance

    def announce(
        self,
        spec: Spec,
        *,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> Registration:
        """Register as soon as possible, and return at once; the arguments are those of `register`.

        The registration is `pending` until it is made: while NATS or JetStream is away it is tried again.
        When the server refuses it, or another value lies under its id, it is `failed`, and its `error` says
        why. `unregister` ends it in any state.
        Raises AlreadyRegisteredError when this process holds another value under the id, InvalidNameError,
        InvalidValueError, WrongLoopError, ClosedError.

        >>> registration = discovery.announce(spec)  # doctest: +SKIP
        >>> async with asyncio.timeout(30):  # doctest: +SKIP
        ...     await registration.active()
        """
        check = checked_health(health, health_interval, health_failures, health_successes)
        instance, ttl = self._wanted(spec, lease_ttl, check)
        if self._models is not None and isinstance(instance, ModelInstance):
            raise InvalidValueError(
                f'cannot announce {instance.id}: models="dynamo" compares it with the cards that are there; '
                "use register"
            )
        return self._registrar.announce(instance, ttl, check)

    @overload
    def registered(
        self, spec: EndpointSpec, **options: Unpack[RegisterOptions]
    ) -> AbstractAsyncContextManager[EndpointInstance]: ...

    @overload
    def registered(
        self, spec: EventChannelSpec, **options: Unpack[RegisterOptions]
    ) -> AbstractAsyncContextManager[EventChannelInstance]: ...

    @overload
    def registered(
        self, spec: EventSourceSpec, **options: Unpack[RegisterOptions]
    ) -> AbstractAsyncContextManager[EventSourceInstance]: ...

    @overload
    def registered(
        self, spec: ModelSpec, **options: Unpack[RegisterOptions]
    ) -> AbstractAsyncContextManager[ModelInstance]: ...

    @asynccontextmanager
    async def registered(
        self,
        spec: Spec,
        *,
        lease_ttl: _Ttl = UNSET,
        health: Health | None = None,
        health_interval: float = 5.0,
        health_failures: int = 1,
        health_successes: int = 1,
    ) -> AsyncIterator[Any]:
        """Hold an instance in the registry while the block runs; the arguments are those of `register`.

        Holders of the same spec are counted, those of `register` and `announce` too: the last one out
        unregisters. An error in the block is raised unchanged; an error of unregistering is logged then.
        Raises what `register` and `unregister` raise.

        >>> async with discovery.registered(spec) as instance:  # doctest: +SKIP
        ...     await serve(instance.transport.address)
        """
        check = checked_health(health, health_interval, health_failures, health_successes)
        registration = await self._register(spec, lease_ttl, check)
        try:
            yield registration.instance
        except BaseException:
            try:
                await self._give_back(registration)
            except DiscoveryError as error:
                emit("not_unregistered", count=1, error=error)
            raise
        else:
            await self._give_back(registration)

    async def unregister(self, instance: Instance | InstanceId) -> None:
        """Take an instance out of the registry; one that is not there is already unregistered.

        Ends a pending one too. If the call is cancelled, it ends within half a second, and the instance is
        still taken out in the background.
        Raises PermissionDeniedError, StoreUnavailableError, WrongLoopError, ClosedError.

        >>> await discovery.unregister(instance)  # doctest: +SKIP
        """
        self._check_open()
        id = instance.id if isinstance(instance, Instance) else instance
        if not isinstance(id, InstanceId):
            raise InvalidValueError(f"unregister takes an instance or its id, not {type(id).__name__}")
        if self._models is not None and isinstance(id, ModelCardInstanceId) and id.model_suffix is None:
            listed = [card.id for card in await self._cards_at(id)]
            for adapter in cards.adapters_of(id, [*(one.id for one in self.registrations), *listed]):
                await self._unregister(adapter)
        await self._unregister(id)

    async def _unregister(self, id: InstanceId) -> None:
        work: Coroutine[Any, Any, None]
        if self._registrar.find(id) is not None:
            work = self._registrar.unregister(id)
        else:
            work = self._store.bucket(entry.bucket_of(id)).delete(keys.key_of(id), revision=None)
        await self._tasks.finish(f"unregistering {id}", work)

    async def update(
        self,
        instance: _InstanceT,
        *,
        transport: Transport | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
        card: Any = UNSET,
    ) -> _InstanceT:
        """Change what is registered, if no other client changed it first; watchers get an Added.

        Fields that are not named stay as they are, the status and those in `extra` too. For an instance of
        this process the change is applied to its newest value, also after another client's update of other
        fields. For an instance of another process, `instance` must be equal to what is registered now. If
        the call is cancelled, it ends within half a second; the change may still be made in the background.
        Raises ConflictError, InvalidValueError, PayloadTooLargeError, PermissionDeniedError,
        StoreUnavailableError, WrongLoopError, ClosedError.

        >>> await discovery.update(instance, metadata={**instance.metadata, "weight": 3})  # doctest: +SKIP
        """
        self._check_open()
        if not isinstance(instance, Instance):
            raise InvalidValueError(f"update takes an instance, not {type(instance).__name__}")
        given = {"transport": transport, "metadata": metadata, "card": card}
        changes = {name: value for name, value in given.items() if not isinstance(value, Unset)}
        if isinstance(transport, Transport) and isinstance(instance, EndpointInstance):
            check_address(transport.kind, transport.address)
        unknown = changes.keys() - {field.name for field in dataclasses.fields(instance)}
        if unknown:
            raise InvalidValueError(f"{instance.id} has no {', '.join(sorted(unknown))}")

        held = self._registrar.find(instance.id)
        if self._models is not None and isinstance(instance, ModelInstance) and held is None:
            raise ConflictError(f'cannot change {instance.id}: with models="dynamo" only its owner does')

        def change(current: Instance) -> Instance:
            changed = dataclasses.replace(current, **changes)
            if self._models is not None:
                cards.check_change(current, changed)
            return changed

        work = self._registrar.change(instance, change, changes)
        return cast(_InstanceT, await self._tasks.finish(f"updating {instance.id}", work))

    async def set_status(self, instance: EndpointInstance, status: Status | str) -> EndpointInstance:
        """Set the status of an endpoint, of this process or of another; watchers get an Added.

        Nothing else of it changes: `instance` only names it, and may be older than what is registered. The
        status stays until it is set again, the endpoint is unregistered, or its lease ends. If the call is
        cancelled, it ends within half a second; the status may still be set in the background.
        Raises ConflictError when nothing is registered under its id, InvalidValueError for a model card or
        an unknown status, PermissionDeniedError, StoreUnavailableError, WrongLoopError, ClosedError.

        >>> await discovery.set_status(instance, Status.DISABLED)  # doctest: +SKIP
        """
        self._check_open()
        if not isinstance(instance, EndpointInstance):
            raise InvalidValueError(
                f"could not set the status of a {type(instance).__name__}: only an EndpointInstance has one"
            )
        try:
            wanted = Status(status)
        except ValueError:
            known = ", ".join(Status)
            raise InvalidValueError(f"status must be one of {known}, not {status!r:.80}") from None
        work = self._registrar.change(instance, lambda one: with_status(one, wanted), exactly=False)
        what = f"setting {instance.id} to {wanted}"
        return cast(EndpointInstance, await self._tasks.finish(what, work))

    async def drain(self, instance: EndpointInstance) -> EndpointInstance:
        """Set an endpoint's status to `draining`, so that pickers leave it out while it still serves.

        Raises what `set_status` raises.

        >>> await discovery.drain(instance)  # doctest: +SKIP
        """
        return await self.set_status(instance, Status.DRAINING)

    async def leases(self, query: Query) -> builtins.dict[InstanceId, float]:
        """Return the seconds that the leases of the instances of `query` have left.

        Instances without a lease are not in it. A lease whose time has passed, but which has not ended yet,
        has a negative number. Each lease is one question to the server: this is for looking, not for serving.
        Raises InvalidValueError, PermissionDeniedError, StoreUnavailableError, WrongLoopError, ClosedError.

        >>> await discovery.leases(endpoints("shop"))  # doctest: +SKIP
        """
        self._check_open()
        if not isinstance(query, Query):
            raise InvalidValueError(f"not a query: {query!r}; use endpoints(…) or models(…)")
        bucket = self._store.bucket(entry.BUCKETS[query.kind])
        reading = bucket.leases(keys.prefix_of(query))
        left = await self._tasks.finish(f"reading the leases of {query}", reading)
        ids = {key: keys.parse_key(query.kind, key) for key in left}
        return {id: left[key] for key, id in ids.items() if id is not None}

    def _wanted(
        self, spec: Spec, lease_ttl: _Ttl, health: HealthCheck | None
    ) -> tuple[Instance, float | None]:
        """Return the instance to register, and its ttl; raises what `register` raises at once."""
        self._check_open()
        if self._is_draining:
            raise ClosedError("this Discovery is being closed: it drains, and registers nothing more")
        if not isinstance(spec, Spec):
            raise InvalidValueError(
                "only an EndpointSpec, a ModelSpec, an EventChannelSpec or an EventSourceSpec can be "
                f"registered, not {type(spec).__name__}"
            )
        if health is not None and not isinstance(spec, EndpointSpec):
            raise InvalidValueError("health is for endpoints: a model card has no status")
        ttl = self._lease_ttl if isinstance(lease_ttl, Unset) else checked_ttl(lease_ttl)
        return spec.with_instance_id(self._instance_id), ttl

    async def _register(self, spec: Spec, lease_ttl: _Ttl, health: HealthCheck | None) -> Registration:
        instance, ttl = self._wanted(spec, lease_ttl, health)
        if self._models is None or not isinstance(instance, ModelInstance):
            return await self._make(instance, ttl, health)
        held = self._registrar.find(instance.id)
        if held is not None and cards.differs_in_taints(held.instance, instance):
            instance = cast(ModelInstance, held.instance)  # the taints were changed since, and stay
        cards.check_beside(instance, await self._cards_at(instance))
        registration = await self._make(instance, ttl, health)
        try:
            # Another process may have looked at the same time; both see it now.
            cards.check_beside(instance, await self._cards_at(instance))
        except BaseException:
            await self._give_back(registration)
            raise
        return registration

    async def _make(self, instance: Instance, ttl: float | None, health: HealthCheck | None) -> Registration:
        work = self._tasks.start(self._registrar.register(instance, ttl, health))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._tasks.check_cancelled_by_caller(work)
            await self._tasks.undo(f"taking back {instance.id}", work, self._registrar.release)
            raise

    async def _give_back(self, registration: Registration) -> None:
        work = self._registrar.release(registration)
        await self._tasks.finish(f"unregistering {registration.id}", work)
