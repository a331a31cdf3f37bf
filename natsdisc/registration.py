"""One instance that this process holds, and how it stands."""

from __future__ import annotations

import asyncio
from typing import Any

from . import entry, keys, lease, wire
from .errors import ClosedError, DiscoveryError, InvalidValueError
from .lease import LeaseState, State
from .model import Instance, InstanceId, kind_of
from .store import Bucket, Entry, Write

__all__ = ["Registration"]


class Registration:
    """One instance that this process holds, and how it stands.

    `announce` returns one, `registrations` holds all of them, and `on_state` is called with one.
    """

    def __init__(self, bucket: Bucket, instance: Instance, state: LeaseState) -> None:
        self._bucket = bucket
        self._key = keys.key_of(instance.id)
        self._become(instance)
        self._lease = state
        self._claims = 1
        self._is_held = True
        # Whether a write was begun, which may have got through even if it seemed to fail.
        self._is_begun = False
        # The state that `on_state` was last called with, and whether the log says that it is recovering.
        self._told = state.state
        self._is_logged = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._health: asyncio.Task[Any] | None = None

    @property
    def instance(self) -> Instance:
        """The instance that is registered, with what others' updates made of it."""
        return self._instance

    @property
    def id(self) -> InstanceId:
        """Its id."""
        return self._instance.id

    @property
    def state(self) -> State:
        """`pending`, `active`, `recovering`, `lost` or `failed`.

        `failed` also after it was unregistered, and after the Discovery was closed.
        """
        return self._lease.state

    @property
    def error(self) -> DiscoveryError | None:
        """The last reason why it is not active, or why its last renewal failed; None while all is well."""
        return self._lease.error

    @property
    def revision(self) -> int:
        """The stream sequence of its value, 0 while it is `pending`.

        It grows with every write and every new owner of the id, and so can serve as a fencing token: a
        resource that remembers the highest one refuses a process that was replaced without knowing it.
        """
        return self._lease.revision

    @property
    def lease_ttl(self) -> float | None:
        """Seconds its lease lasts without a renewal; None is for ever."""
        return self._lease.ttl

    async def active(self) -> Instance:
        """Wait until it is `active`; return the instance. The caller bounds the wait.

        Raises the reason when it is `failed` or `lost`; ClosedError when it was unregistered or the Discovery
        was closed.

        >>> async with asyncio.timeout(30):  # doctest: +SKIP
        ...     await registration.active()
        """
        while self.state is not State.ACTIVE:
            if self._lease.is_over:
                raise self.error or ClosedError(f"{self.id} is not registered any more")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._instance

    def __repr__(self) -> str:
        return f"<Registration {self.id} {self.state}>"

    # For the registrar and its parts; only `natsdisc.lease` makes the states that they set.

    def _set(self, state: LeaseState) -> None:
        self._lease = state
        if state.state is State.ACTIVE or state.is_over:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _end(self, error: DiscoveryError) -> None:
        """Let go: nothing is renewed or checked any more."""
        self._is_held = False
        if self._health is not None:
            self._health.cancel()
        self._set(lease.ended(self._lease, error))

    def _write(self, owner: str, ttl: float | None) -> Write:
        """Return its value as `owner` writes it under a lease of `ttl` seconds."""
        return Write(self._key, self._value, ttl, owner, self._is_mine)

    def _become(self, instance: Instance) -> None:
        """Take another value, that will be written."""
        self._value = wire.dumps(instance)
        # The instance as others will read it: JSON has no tuples.
        self._instance = wire.loads(self._value)

    def _is_mine(self, found: Entry) -> bool:
        """Return whether a value is one of this id: any other is nobody's."""
        try:
            return found.trusted and self._decode(found).id == self.id
        except InvalidValueError:
            return False

    def _decode(self, found: Entry) -> Instance:
        return entry.decode(kind_of(self.id), self._key, found.value)
