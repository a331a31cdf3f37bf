"""Every error a caller of natsdisc can see, in one tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .safe import safe

__all__ = [
    "AlreadyRegisteredError",
    "ClosedError",
    "ConflictError",
    "DiscoveryError",
    "InsecureConnectionError",
    "InvalidIdError",
    "InvalidNameError",
    "InvalidQueryError",
    "InvalidValueError",
    "NoHistoryError",
    "NoInstanceError",
    "NotReadyError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "StoreUnavailableError",
    "UnsupportedServerError",
    "WrongLoopError",
]


# An error names at most this many reasons.
_REASONS_SHOWN = 10


class DiscoveryError(Exception):
    """The root of everything natsdisc raises on purpose.

    Its text is one line, and holds no control character that others wrote.
    """

    def __str__(self) -> str:
        return safe(super().__str__())


class InvalidNameError(DiscoveryError, ValueError):
    """A namespace, component, endpoint, suffix or bucket prefix that cannot be part of a key."""


class InvalidIdError(DiscoveryError, ValueError):
    """An instance id that is not an unsigned 64-bit integer."""


class InvalidQueryError(DiscoveryError, ValueError):
    """A query with a hole, such as a component without its namespace."""


class InvalidValueError(DiscoveryError, ValueError):
    """A value that has no JSON form, is not an instance, or an option that makes no sense."""


class AlreadyRegisteredError(DiscoveryError):
    """Another value is registered under this id; `existing` is what is there, if it can be read."""

    def __init__(self, message: str, existing: Any = None) -> None:
        super().__init__(message)
        self.existing = existing


class ConflictError(DiscoveryError):
    """A compare-and-set lost: somebody else changed or removed the entry first."""


class UnsupportedServerError(DiscoveryError):
    """The server is too old, or the stream behind a bucket is not one natsdisc can use."""


class PermissionDeniedError(DiscoveryError, PermissionError):
    """The server refused the connection's credentials, or this user may not do that."""


class PayloadTooLargeError(DiscoveryError, ValueError):
    """The value is larger than the server accepts; nothing was sent."""


class StoreUnavailableError(DiscoveryError, ConnectionError):
    """No answer in time: no server, no JetStream, or no leader for the stream."""


class InsecureConnectionError(StoreUnavailableError):
    """TLS was asked for, and the server offers none: no credential was sent to it."""


class ClosedError(DiscoveryError):
    """The Discovery, or the connection below it, has been closed."""


class NotReadyError(DiscoveryError):
    """`Discovery.check` found something that is not well; `reasons` has all of it, one text each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(map(safe, reasons))
        shown = "; ".join(self.reasons[:_REASONS_SHOWN])
        more = len(self.reasons) - _REASONS_SHOWN
        super().__init__(f"not ready: {shown}" + (f"; and {more} more" if more > 0 else ""))


class WrongLoopError(DiscoveryError, RuntimeError):
    """A Discovery, or a watch or view of it, was used outside of the event loop that it belongs to."""


class NoHistoryError(DiscoveryError):
    """A bucket has no history: `natsdisc history enable` makes the stream that keeps one."""


class NoInstanceError(DiscoveryError, LookupError):
    """There is no instance to pick."""
