"""The options of a Discovery, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .callbacks import check_callback, plain
from .errors import InvalidValueError
from .lease import MAX_TTL
from .model import check_instance_id
from .reports import OnChange
from .signing import Secret, Signer, Trust

__all__ = [
    "UNSET",
    "Unset",
    "check_options",
    "checked_callback",
    "checked_keys",
    "checked_models",
    "checked_ttl",
]

# The server keeps schedules in whole seconds and tombstones expire no faster (ADR-43).
_MIN_LEASE_TTL_S = 1.0


class Unset:
    """The mark of an argument that was not given, where None means something."""

    def __repr__(self) -> str:
        return "the default"


UNSET = Unset()


def check_options(instance_id: int | None, lease_ttl: float | None, expiry_grace: float) -> None:
    """Raise InvalidValueError or InvalidIdError for an option that makes no sense."""
    if instance_id is not None:
        check_instance_id(instance_id)
    checked_ttl(lease_ttl)
    if not isinstance(expiry_grace, (int, float)) or not expiry_grace >= 0:
        raise InvalidValueError(f"expiry_grace must be 0 s or more: {expiry_grace!r}")


def checked_keys(
    signer: Signer | Secret | None, trusted: Trust | Mapping[str, Iterable[str]] | None
) -> tuple[Signer | None, Trust | None]:
    """Return the signer and the trust that a user asked for."""
    return (
        signer if signer is None or isinstance(signer, Signer) else Signer(signer),
        trusted if trusted is None or isinstance(trusted, Trust) else Trust(trusted),
    )


def checked_models(models: object) -> str | None:
    """Return the rules for model cards that a user asked for; raises InvalidValueError for unknown ones."""
    if models is None or models == "dynamo":
        return "dynamo" if models else None
    raise InvalidValueError(f'models must be None or "dynamo", not {models!r:.80}')


def checked_ttl(ttl: float | None) -> float | None:
    """Return a ttl (seconds) that a lease can have; raises InvalidValueError."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not _MIN_LEASE_TTL_S <= ttl <= MAX_TTL:
        raise InvalidValueError(
            f"lease_ttl must be None or {_MIN_LEASE_TTL_S:g} to {MAX_TTL:.0f} s (a year): {ttl!r}; with None "
            "an instance stays until it is unregistered"
        )
    return ttl


def checked_callback(name: str, callback: OnChange | None) -> OnChange | None:
    """Return a user's callback, watched for mistakes; raises InvalidValueError for an async one."""
    if callback is None:
        return None
    check_callback(name, callback)
    return plain(callback)
