"""The state of a registration, and everything that changes it. Pure: no clock, no I/O.

Rules
1. A lease is renewed a third of its ttl after the last renewal was sent, a little earlier by chance.
2. A renewal without an answer is sent again soon, at growing distances. It is no loss: the fence of the next
   one tells what happened meanwhile. After one ttl without an answer the registration is `recovering`.
3. A failed fence means that the registration is no longer the current one: register again at once.
4. Another owner's value under the same id means that it is `lost`; nothing more is tried.
5. Ignore an answer about a superseded revision.
6. A refusal (no permission, too large, connection closed) makes it `recovering` at once. It is tried again as
   often as in a long outage, because a refusal can be taken back.
7. A registration that was made again is checked sooner than a third of a long ttl: if another client
   interferes, it is back within seconds after that ends.
8. A `pending` registration was never made. It is tried again like a renewal (rule 2) until it succeeds. A
   refusal, or another value under its id, makes it `failed`; nothing more is tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from .errors import DiscoveryError

__all__ = [
    "MAX_TTL",
    "NEVER",
    "Answer",
    "LeaseState",
    "State",
    "Step",
    "apply",
    "ended",
    "noted",
    "pending",
    "postponed",
    "read_ttl",
    "renewed_at_once",
    "replaced",
    "started",
    "step",
    "unheard",
    "write_ttl",
]

# Seconds in a year: the longest lease, and the longest time that the mark of a removal stays. The server
# counts both in int64 nanoseconds, which end after 292 years. A lease of a year is none in practice, and
# lease_ttl=None says so.
MAX_TTL = 365 * 24 * 3600.0
# The moment at which a state is due that has nothing to do.
NEVER = math.inf

# Two renewals may be lost before the lease ends.
_RENEWALS_PER_TTL = 3
# Renewals are sent up to this part of their interval early, so that those of one process spread.
_JITTER = 0.15
# A stream without a leader is asked again this soon (seconds): its new leader fires what is overdue at once,
# and an owner that is back within the grace was never gone. A long outage is asked about less often.
_FIRST_RETRY_S = 0.25
_RETRIES_PER_STEP, _MOST_STEPS = 20, 4
# A service that waits for its first registration serves nobody until then: it is tried twice a second.
_MOST_STEPS_PENDING = 1
# Seconds after which a registration that was made again is checked first; twice as long each time after that.
_FIRST_CHECK_S = 4.0


class State(StrEnum):
    """How a registration stands.

    `pending`: announced, and not made yet. `active`: registered. `recovering`: registered as far as this
    process knows, but not confirmed, or to be made again. `lost`: another owner holds the id. `failed`: it
    was refused, or it was ended.
    """

    PENDING = "pending"
    ACTIVE = "active"
    RECOVERING = "recovering"
    LOST = "lost"
    FAILED = "failed"


class Step(Enum):
    """The next action of a registration that is due."""

    RENEW = auto()
    REGISTER = auto()
    NOTHING = auto()


class Answer(Enum):
    """The outcome of a step."""

    RENEWED = auto()
    REGISTERED = auto()  # made, made again, or found again
    FENCED = auto()  # the revision is no longer the current one
    SILENT = auto()  # no answer, or no way to ask
    REFUSED = auto()  # the server, or the closed connection, says no
    TAKEN = auto()  # another value lies there


@dataclass(frozen=True, slots=True)
class LeaseState:
    """One registration's claim: the revision it wrote, and when it has to act (`due`, in seconds).

    `gone` if it has to be registered (again). `check` is the longest distance (seconds) to the next renewal,
    None for a third of the ttl. `error` is the last reason why it is not active, or not renewed.
    """

    ttl: float | None
    revision: int
    renewed: float
    due: float
    state: State = State.ACTIVE
    retries: int = 0
    gone: bool = False
    check: float | None = None
    error: DiscoveryError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is tried any more."""
        return self.state is State.LOST or self.state is State.FAILED


def started(
    ttl: float | None, revision: int, sent: float, chance: float, *, check: float | None = None
) -> LeaseState:
    """Return the state of a registration that was just made; `chance` is a random number from 0 to 1."""
    if ttl is None or (check is not None and check >= ttl / _RENEWALS_PER_TTL):
        check = None
    return LeaseState(ttl, revision, sent, _next(ttl, sent, chance, check), check=check)


def pending(ttl: float | None, now: float) -> LeaseState:
    """Return the state of a registration that is to be made as soon as possible."""
    return LeaseState(ttl, 0, now, now, State.PENDING, gone=True)


def step(lease: LeaseState) -> Step:
    """Return what to do when `lease` is due."""
    if lease.is_over:
        return Step.NOTHING
    if lease.gone:
        return Step.REGISTER
    return Step.NOTHING if lease.ttl is None else Step.RENEW


def renewed_at_once(lease: LeaseState, now: float) -> LeaseState:
    """Return `lease` after a reconnect: a fresh renewal must be there before an overdue lease fires."""
    return lease if step(lease) is Step.NOTHING else replace(lease, due=now, retries=0)


def postponed(lease: LeaseState, due: float) -> LeaseState:
    """Return `lease` after a step that a bug has ended: it is taken again at `due`."""
    return lease if step(lease) is Step.NOTHING else replace(lease, due=due)


def apply(
    lease: LeaseState,
    answer: Answer,
    revision: int,
    sent: float,
    now: float,
    chance: float,
    error: DiscoveryError | None = None,
) -> LeaseState:
    """Return `lease` after an `answer`, at `now`, to what was `sent` about `revision`.

    For a registration that was made (again), `revision` is the new one. `error` is the reason of any other
    answer.
    """
    if lease.is_over:
        return lease
    is_pending = lease.state is State.PENDING
    if answer is Answer.TAKEN or (is_pending and answer is Answer.REFUSED):
        state = State.FAILED if is_pending else State.LOST
        return replace(lease, state=state, due=NEVER, error=error)
    if answer is Answer.REGISTERED:
        check = _FIRST_CHECK_S if lease.gone and not is_pending else lease.check
        return started(lease.ttl, revision, sent, chance, check=check)
    if revision != lease.revision or (answer is Answer.RENEWED and lease.gone):
        # It is about a value that was replaced, or lost, while it was on its way.
        return replace(lease, due=NEVER if step(lease) is Step.NOTHING else now)
    if answer is Answer.RENEWED:
        return started(lease.ttl, revision, sent, chance, check=lease.check and 2 * lease.check)
    if answer is Answer.FENCED:
        return replace(lease, state=State.RECOVERING, gone=True, due=now, retries=0, error=error)
    if answer is Answer.REFUSED:
        lease = replace(lease, retries=max(lease.retries, _RETRIES_PER_STEP * _MOST_STEPS))
    lease = unheard(lease, now, error, refused=answer is Answer.REFUSED)
    return replace(lease, due=now + _retry(lease, chance), retries=lease.retries + 1)


def unheard(
    lease: LeaseState, now: float, error: DiscoveryError | None = None, *, refused: bool = False
) -> LeaseState:
    """Return `lease` at `now`, when there is no way to ask, or a refusal; `error` is the reason."""
    if lease.is_over:
        return lease
    lease = replace(lease, error=error)
    if lease.state is State.PENDING:
        return replace(lease, state=State.FAILED, due=NEVER) if refused else lease
    expired = lease.ttl is not None and now >= lease.renewed + lease.ttl
    if lease.state is State.ACTIVE and (expired or lease.gone or refused):
        return replace(lease, state=State.RECOVERING)
    return lease


def noted(lease: LeaseState, error: DiscoveryError) -> LeaseState:
    """Return `lease` with the reason why it was away for a moment; it was found to be gone, and is back."""
    return unheard(lease, lease.renewed, error, refused=True)


def replaced(lease: LeaseState, revision: int) -> LeaseState:
    """Return `lease` after its value was changed: the lease goes on as it is."""
    return replace(lease, revision=revision)


def ended(lease: LeaseState, error: DiscoveryError) -> LeaseState:
    """Return `lease` after its holder let it go: `error` says how. A lost one stays lost."""
    return lease if lease.is_over else replace(lease, state=State.FAILED, due=NEVER, error=error)


def write_ttl(seconds: float) -> str:
    """Return a ttl as a header holds it: plain digits, to the millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def read_ttl(text: str | None) -> float | None:
    """Return the ttl (seconds) that a header holds; None when there is none that makes sense."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_TTL else None


def _next(ttl: float | None, sent: float, chance: float, check: float | None) -> float:
    if ttl is None:
        return NEVER
    distance = ttl / _RENEWALS_PER_TTL if check is None else check
    return sent + distance * (1 - _JITTER * chance)


def _retry(lease: LeaseState, chance: float) -> float:
    longest = (lease.ttl or math.inf) / _RENEWALS_PER_TTL
    most = _MOST_STEPS_PENDING if lease.state is State.PENDING else _MOST_STEPS
    steps = min(lease.retries // _RETRIES_PER_STEP, most)
    return float(min(_FIRST_RETRY_S * 2**steps, longest)) * (1 - chance / 2)
