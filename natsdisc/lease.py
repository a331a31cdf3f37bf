"""When to renew a registration's lease, when it is lost, and what to do next. Pure: no clock, no I/O.

Rules
1. A lease is renewed a third of its ttl after the last renewal was sent, a little earlier by chance.
2. A renewal that got no answer is sent again soon, at growing distances. It is no loss: the fence of the next
   one tells what happened meanwhile. After one ttl without an answer the registration is `recovering`.
3. A failed fence means that the registration is no longer the current one: register again at once.
4. Another owner's value under the same id means that it is `lost`; nothing more is tried.
5. An answer to a revision that is no longer ours says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

__all__ = ["Answer", "Hold", "State", "Step", "after", "renewed_at_once", "replaced", "started", "step"]

# Two renewals may be lost before the lease ends.
_RENEWALS_PER_TTL = 3
# Renewals are sent up to this part of their interval early, so that those of one process spread.
_JITTER = 0.15
# A stream without a leader is asked again this soon (seconds): its new leader fires what is overdue at once,
# and who is back within the grace was never gone. An outage that lasts is asked about less often.
_FIRST_RETRY = 0.25
_RETRIES_PER_STEP, _MOST_STEPS = 20, 4


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
    TAKEN = auto()  # another value lies there


@dataclass(frozen=True, slots=True)
class Hold:
    """One registration's claim: the revision it wrote, and when it has to act (`due`, in seconds)."""

    ttl: float | None
    revision: int
    renewed: float
    due: float
    state: State = State.ACTIVE
    retries: int = 0
    gone: bool = False


def started(ttl: float | None, revision: int, sent: float, chance: float) -> Hold:
    """A registration that was just made; `chance` is a random number from 0 to 1."""
    return Hold(ttl, revision, sent, _next(ttl, sent, chance))


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
        return replace(hold, state=State.LOST, due=math.inf)
    if answer is Answer.REGISTERED:
        return started(hold.ttl, revision, sent, chance)
    if revision != hold.revision or (answer is Answer.RENEWED and hold.gone):
        # The answer belongs to a value that was replaced, or lost, while it was on its way.
        return replace(hold, due=math.inf if step(hold) is Step.NOTHING else now)
    if answer is Answer.RENEWED:
        return started(hold.ttl, revision, sent, chance)
    if answer is Answer.FENCED:
        return replace(hold, state=State.RECOVERING, gone=True, due=now, retries=0)
    expired = hold.ttl is not None and now >= hold.renewed + hold.ttl
    return replace(
        hold,
        state=State.RECOVERING if expired or hold.gone else hold.state,
        due=now + _retry(hold, chance),
        retries=hold.retries + 1,
    )


def replaced(hold: Hold, revision: int) -> Hold:
    """`hold` after its value was changed: the lease goes on as it is."""
    return replace(hold, revision=revision)


def _next(ttl: float | None, sent: float, chance: float) -> float:
    return math.inf if ttl is None else sent + ttl / _RENEWALS_PER_TTL * (1 - _JITTER * chance)


def _retry(hold: Hold, chance: float) -> float:
    longest = (hold.ttl or math.inf) / _RENEWALS_PER_TTL
    steps = min(hold.retries // _RETRIES_PER_STEP, _MOST_STEPS)
    return float(min(_FIRST_RETRY * 2**steps, longest)) * (1 - chance / 2)
