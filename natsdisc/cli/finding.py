"""One line of `natsdisc doctor`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BROKEN", "NOTE", "OK", "SKIPPED", "Finding"]

OK, NOTE, BROKEN, SKIPPED = "ok", "note", "broken", "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and what to do if it is not good."""

    check: str
    state: str
    text: str
    todo: str = ""
