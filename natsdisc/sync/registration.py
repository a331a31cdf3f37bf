"""A registration that any thread may look at and wait for."""

from __future__ import annotations

from .. import registration as asynchronous
from ..errors import ClosedError, DiscoveryError
from ..lease import State
from ..model import Instance, InstanceId
from .session import Session

__all__ = ["Registration"]


class Registration:
    """One instance that this process holds, and how it stands; the same as `natsdisc.Registration`.

    `announce` returns one, `registrations` holds all of them, and `on_state` and `on_lost` are called with
    one. Two of them are equal when they stand for the same registration.

        registration = discovery.announce(spec)
        instance = registration.active(timeout=30)
    """

    def __init__(self, session: Session, registration: asynchronous.Registration) -> None:
        self._session = session
        # Each of its properties is one read of an immutable record, which any thread may do.
        self._registration = registration

    @property
    def instance(self) -> Instance:
        """The instance that is registered, with what others' updates made of it."""
        return self._registration.instance

    @property
    def id(self) -> InstanceId:
        """Its id."""
        return self._registration.id

    @property
    def state(self) -> State:
        """`pending`, `active`, `recovering`, `lost` or `failed`.

        `failed` also after it was unregistered, and after the Discovery was closed.
        """
        return self._registration.state

    @property
    def error(self) -> DiscoveryError | None:
        """The last reason why it is not active, or why its last renewal failed; None while all is well."""
        return self._registration.error

    @property
    def revision(self) -> int:
        """The stream sequence of its value, 0 while it is `pending`: a fencing token."""
        return self._registration.revision

    @property
    def lease_ttl(self) -> float | None:
        """Seconds its lease lasts without a renewal; None is for ever."""
        return self._registration.lease_ttl

    def active(self, timeout: float | None = None) -> Instance:
        """Wait until it is `active`; return the instance.

        Raises TimeoutError after `timeout` seconds; it then goes on being tried. Raises the reason when it is
        `failed` or `lost`; ClosedError when it was unregistered, when the Discovery was closed, and in a
        forked child.

        >>> registration.active(timeout=30)  # doctest: +SKIP
        """
        what = f"waiting for the registration of {self.id}"
        if not self._session.is_here:
            raise ClosedError(f"{what} failed: it belongs to process {self._session.pid}, which forked this")
        return self._session.thread.run(self._registration.active, what, timeout)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registration) and other._registration is self._registration

    def __hash__(self) -> int:
        return hash(self._registration)

    def __repr__(self) -> str:
        return repr(self._registration)
