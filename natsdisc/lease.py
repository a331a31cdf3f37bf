"""When to renew a registration's lease, when it is lost, and what to do next. Pure: no clock, no I/O.

Rules
1. A lease is renewed a third of its ttl after the last renewal was sent, a little earlier by chance.
2. A renewal without an answer is sent again soon, at growing distances. It is no loss: the fence of the next
   one tells what happened meanwhile. After one ttl without an answer the registration is `recovering`.
3. A failed fence means that the registration is no longer the current one: register again at once.
4. Another owner's value under the same id means that it is `lost`; nothing more is tried.
5. An answer about a revision that is no longer ours says nothing.
6. A refusal (no permission, too large, connection closed) makes it `recovering` at once. It is tried again as
   often as in a long outage, because a refusal can be taken back.
7. A registration that was made again is checked sooner than a third of a long ttl: if another client
   interferes, it is back within seconds after that ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

__all__ = [
    "MAX_TTL",
    "NEVER",
    "Answer",
    "Hold",
    "State",
    "Step",
    "after",
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
# The moment at which a hold is due that has nothing to do.
NEVER = math.inf

# Two renewals may be lost before the lease ends.
_RENEWALS_PER_TTL = 3
# Renewals are sent up to this part of their interval early, so that those of one process spread.
_JITTER = 0.15
# A stream without a leader is asked again this soon (seconds): its new leader fires what is overdue at once,
# and who is back within the grace was never gone. An outage that lasts is asked about less often.
_FIRST_RETRY = 0.25
_RETRIES_PER_STEP, _MOST_STEPS = 20, 4
# Seconds after which a registration that was made again is checked first; twice as long each time after that.
_FIRST_CHECK = 4.0


class State(StrEnum):
    """How a registration stands."""

    ACTIVE = "active"
    RECOVERING = "recovering"
    LOST = "lost"


class Step(Enum):
    """What to do when a hold is due."""

    RENEW = auto()
    REGISTER = auto()
    NOTHING = auto()


class Answer(Enum):
    """What came of a step."""

    RENEWED = auto()
    REGISTERED = auto()  # made again, or found again
    FENCED = auto()  # the revision is no longer the current one
    SILENT = auto()  # no answer, or no way to ask
    REFUSED = auto()  # the server, or the closed connection, says no
    TAKEN = auto()  # another value lies there


@dataclass(frozen=True, slots=True)
class Hold:
    """One registration's claim: the revision it wrote, and when it has to act (`due`, in seconds).

    `check` is the longest distance (seconds) to the next renewal, None for a third of the ttl.
    """

    ttl: float | None
    revision: int
    renewed: float
    due: float
    state: State = State.ACTIVE
    retries: int = 0
    gone: bool = False
    check: float | None = None


def started(
    ttl: float | None, revision: int, sent: float, chance: float, *, check: float | None = None
) -> Hold:
    """Return the hold of a registration that was just made; `chance` is a random number from 0 to 1."""
    if ttl is None or (check is not None and check >= ttl / _RENEWALS_PER_TTL):
        check = None
    return Hold(ttl, revision, sent, _next(ttl, sent, chance, check), check=check)


def step(hold: Hold) -> Step:
    """What to do when `hold` is due."""
    if hold.state is State.LOST:
        return Step.NOTHING
    if hold.gone:
        return Step.REGISTER
    return Step.NOTHING if hold.ttl is None else Step.RENEW


def renewed_at_once(hold: Hold, now: float) -> Hold:
    """`hold` after a reconnect: a fresh renewal must be there before an overdue lease fires."""
    return hold if step(hold) is Step.NOTHING else replace(hold, due=now, retries=0)


def after(hold: Hold, answer: Answer, revision: int, sent: float, now: float, chance: float) -> Hold:
    """`hold` after an `answer`, at `now`, to what was `sent` about `revision`.

    For a registration that was made again, `revision` is the new one.
    """
    if hold.state is State.LOST:
        return hold
    if answer is Answer.TAKEN:
        return replace(hold, state=State.LOST, due=NEVER)
    if answer is Answer.REGISTERED:
        return started(hold.ttl, revision, sent, chance, check=_FIRST_CHECK if hold.gone else hold.check)
    if revision != hold.revision or (answer is Answer.RENEWED and hold.gone):
        # The answer belongs to a value that was replaced, or lost, while it was on its way.
        return replace(hold, due=NEVER if step(hold) is Step.NOTHING else now)
    if answer is Answer.RENEWED:
        return started(hold.ttl, revision, sent, chance, check=hold.check and 2 * hold.check)
    if answer is Answer.FENCED:
        return replace(hold, state=State.RECOVERING, gone=True, due=now, retries=0)
    if answer is Answer.REFUSED:
        hold = replace(hold, retries=max(hold.retries, _RETRIES_PER_STEP * _MOST_STEPS))
    hold = unheard(hold, now, refused=answer is Answer.REFUSED)
    return replace(hold, due=now + _retry(hold, chance), retries=hold.retries + 1)


def unheard(hold: Hold, now: float, *, refused: bool = False) -> Hold:
    """Return `hold` at `now`, when there is no way to ask, or a refusal."""
    expired = hold.ttl is not None and now >= hold.renewed + hold.ttl
    if hold.state is State.ACTIVE and (expired or hold.gone or refused):
        return replace(hold, state=State.RECOVERING)
    return hold


def replaced(hold: Hold, revision: int) -> Hold:
    """`hold` after its value was changed: the lease goes on as it is."""
    return replace(hold, revision=revision)


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


def _retry(hold: Hold, chance: float) -> float:
    longest = (hold.ttl or math.inf) / _RENEWALS_PER_TTL
    steps = min(hold.retries // _RETRIES_PER_STEP, _MOST_STEPS)
    return float(min(_FIRST_RETRY * 2**steps, longest)) * (1 - chance / 2)
