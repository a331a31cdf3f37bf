"""How `natsdisc doctor` says it, and what it advises."""

from __future__ import annotations

from natsdisc.acl import Role
from natsdisc.errors import (
    DiscoveryError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from natsdisc.history import PROBE

from .doctor_target import Target

__all__ = ["PROBE", "article", "concrete", "offset_text", "todo_making", "todo_missing", "todo_using"]


def concrete(pattern: str) -> str:
    """Return a subject that `pattern` matches."""
    return ".".join(PROBE if token in ("*", ">") else token for token in pattern.split("."))


def article(role: Role) -> str:
    """Return "an operator", "a reader" or "a registrar"."""
    return f"an {role}" if role is Role.OPERATOR else f"a {role}"


def todo_making(error: DiscoveryError) -> str:
    """Return what helps against `error`, which came from making a bucket."""
    if isinstance(error, PermissionDeniedError):
        return "let an operator run this (`natsdisc acl --role operator`)"
    return "check --replicas and --storage: R3 needs three servers"


def todo_missing(role: Role) -> str:
    """Return what a user of `role` can do about a bucket that is not there."""
    if role is Role.OPERATOR:
        return "run `natsdisc doctor --create`"
    if role is Role.READER:
        return (
            "nothing was registered yet; a reader cannot make it, an operator or the first registration does"
        )
    return (
        "an operator makes it with `natsdisc doctor --create`; the first registration does, if its user may"
    )


def todo_using(error: BaseException, target: Target) -> str:
    """Return what helps against `error`, which came from work in the registry."""
    if isinstance(error, PermissionDeniedError):
        return f"grant what `natsdisc acl --role {target.role}{target.place}{target.identity}` prints"
    if isinstance(error, UnsupportedServerError):
        return "see the line of the bucket"
    if isinstance(error, StoreUnavailableError):
        # A leader that lost its followers goes on saying that it leads for some seconds.
        return "see the lines above; in a cluster there may be no quorum: start the servers that are missing"
    return "see the lines above, and the server's log"


def offset_text(seconds: float) -> str:
    """Return how far a clock is off."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
