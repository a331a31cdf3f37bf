"""The fields that a log record carries besides its text.

Every field's name begins with `natsdisc_`. `natsdisc_event` says what happened and is always there; the
others say to whom, and are texts or numbers.

Keys, names and error texts in a record may hold bytes that others wrote. Every text of a record is therefore
made safe before any handler sees it: `logger` gives a module a logger that does so, and `fields` does it for
the fields.
"""

from __future__ import annotations

import logging
import traceback
from typing import TypeAlias

from .safe import safe, safe_lines

__all__ = ["fields", "logger", "make_safe"]

Field: TypeAlias = str | int | float


def logger(name: str) -> logging.Logger:
    """Return the logger `name`; the texts in its records hold nothing that a terminal would obey."""
    found = logging.getLogger(name)
    found.addFilter(make_safe)  # a filter that is there already is not added again
    return found


def fields(event: str, **values: object) -> dict[str, Field]:
    """Return the `extra` of a log call."""
    return {
        "natsdisc_event": event,
        **{f"natsdisc_{name}": _plain(value) for name, value in values.items()},
    }


def make_safe(record: logging.LogRecord) -> bool:
    """Make the arguments and the traceback of `record` safe, and return True: a filter that drops nothing."""
    if isinstance(record.args, dict):
        record.args = {name: _plain(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(map(_plain, record.args))
    if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
        # Formatters take this text when it is there.
        record.exc_text = safe_lines("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return True


def _plain(value: object) -> Field:
    """Return numbers as they are and everything else as a safe text."""
    return value if isinstance(value, (int, float)) else safe(str(value))
