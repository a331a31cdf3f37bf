"""One instance that this process holds, and how it stands."""

from __future__ import annotations

from . import lease
from .errors import DiscoveryError
from .lease import State
from .model import Instance, InstanceId
from .store import Bucket

__all__ = ["Registration"]


class Registration:
    """One instance that this process holds, and how it stands."""

    def __init__(self, bucket: Bucket, key: str, value: bytes, instance: Instance, hold: lease.Hold) -> None:
        self._bucket = bucket
        self._key = key
        self._value = value
        self._instance = instance
        self._hold = hold
        self._claims = 1
        self._is_held = True
        self._error: DiscoveryError | None = None
        # The state that `on_state` was last called with, and whether the log says that it is recovering.
        self._told = hold.state
        self._is_logged = False

    @property
    def instance(self) -> Instance:
        """The instance that is registered."""
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
    def error(self) -> DiscoveryError | None:
        """The last reason why it is not active, or why its last renewal failed; None while all is well."""
        return self._error

    @property
    def revision(self) -> int:
        """The stream sequence of its value. It grows with every write, and can serve as a fencing token."""
        return self._hold.revision

    @property
    def lease_ttl(self) -> float | None:
        """Seconds its lease lasts without a renewal; None is for ever."""
        return self._hold.ttl

    def __repr__(self) -> str:
        return f"<Registration {self.id} {self.state}>"
