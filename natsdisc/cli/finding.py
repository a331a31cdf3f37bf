"""One line of `natsdisc doctor`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BROKEN", "NOTE", "OK", "SKIPPED", "Finding"]

OK, NOTE, BROKEN, SKIPPED = "ok", "note", "broken", "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do if that is not good."""

    check: str
    state: str
    text: str
    todo: str = ""
