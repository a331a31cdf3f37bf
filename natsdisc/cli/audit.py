"""`natsdisc doctor --audit`: what somebody else than a natsdisc registrar wrote into the buckets."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from natsdisc.entry import BUCKETS
from natsdisc.errors import DiscoveryError, PermissionDeniedError
from natsdisc.model import Kind
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.audit import Oddity, Suspicion
from natsdisc.store.jetstream.inspector import Inspector

from .finding import BROKEN, NOTE, OK, Finding
from .render import counted

__all__ = ["audit"]

# Looking at a message takes the server about a tenth of a millisecond.
_MOST_LOOKS = 20_000
# This many of each kind are shown; the rest are counted.
_MOST_SHOWN = 10
_LONGEST = 200  # characters of what others wrote, in a line
_WRONG = (Suspicion.SCHEDULE, Suspicion.FORGED)
_TODO = {
    Suspicion.SCHEDULE: "`natsdisc prune --foreign-schedules --yes` ends it; ask those who may publish there",
    Suspicion.NOT_A_LEASE: "`natsdisc prune --foreign-schedules --yes` ends it",
    Suspicion.FORGED: "end the schedule; an owner that is alive puts its entry back",
    Suspicion.INVALID: "`natsdisc prune` with its path removes it, unless its owner does",
    Suspicion.STRANGER: "fine, if somebody writes there without natsdisc; its readers believe it",
    Suspicion.UNREADABLE: "readers skip it; an administrator can purge it with a wildcard",
}


async def audit(admin: Admin) -> AsyncIterator[Finding]:
    """Yield what is odd in each bucket, at most some lines of each kind."""
    for kind in Kind:
        name = f"audit {BUCKETS[kind]}"
        try:
            found, looked, of = await Inspector(admin).odd(kind, limit=_MOST_LOOKS)
        except PermissionDeniedError as error:
            yield Finding(name, BROKEN, str(error), "an audit needs the rights of an operator")
            continue
        except DiscoveryError as error:
            yield Finding(name, BROKEN, str(error), "see the lines above")
            continue
        for finding in _shown(name, found):
            yield finding
        part = f", a random part of {of}" if looked < of else ""
        if not found:
            yield Finding(name, OK, f"{counted(looked, 'message')}{part}: leases and entries only")
        elif part:
            yield Finding(
                name, NOTE, f"looked at {counted(looked, 'message')}{part}", "run it again for others"
            )


def _shown(name: str, found: list[Oddity]) -> list[Finding]:
    shown: Counter[Suspicion] = Counter()
    findings = []
    for one in found:
        shown[one.suspicion] += 1
        if shown[one.suspicion] <= _MOST_SHOWN:
            state = BROKEN if one.suspicion in _WRONG else NOTE
            text = f"{one.suspicion}: {_short(one.subject)}: {_short(one.why)}"
            findings.append(Finding(name, state, text, _TODO[one.suspicion]))
    for suspicion, count in shown.items():
        if count > _MOST_SHOWN:
            text = f"{suspicion}: {count - _MOST_SHOWN} more"
            findings.append(Finding(name, NOTE, text, _TODO[suspicion]))
    return findings


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
