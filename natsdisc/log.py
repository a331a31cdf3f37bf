"""What a log record carries besides its text.

Every field's name begins with `natsdisc_`. `natsdisc_event` says what happened and is always there; the
others say to whom, and are texts or numbers.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["fields"]

Field: TypeAlias = str | int | float


def fields(event: str, **values: object) -> dict[str, Field]:
    """The `extra` of a log call."""
    named = {f"natsdisc_{name}": value for name, value in values.items()}
    return {
        "natsdisc_event": event,
        **{
            name: value if isinstance(value, (str, int, float)) else str(value)
            for name, value in named.items()
        },
    }
