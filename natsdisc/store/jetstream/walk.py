"""Reading the messages of a stretch of a stream in a few round trips.

A message is found by asking for the next one at a sequence, so one after the other costs a round trip each.
Here the stretch is divided into parts, which are read side by side. Where messages are found, that part is
divided again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from .stream_messages import StoredMessage

__all__ = ["Walked", "walk"]

_AT_ONCE = 32


class Walked(NamedTuple):
    """The messages found, in the order of their sequences, and where to go on if that was not all."""

    messages: list[StoredMessage]
    resume: int | None


async def walk(
    next_message: Callable[[int], Awaitable[StoredMessage | None]],
    first: int,
    last: int,
    *,
    most: int,
    is_too_new: Callable[[StoredMessage], bool],
) -> Walked:
    """Read the messages from the sequence `first` to `last`, up to the first one that is too new.

    `next_message` returns the first message at a sequence or later. At most about `most` questions are asked.
    Raises what `next_message` does.
    """
    found: list[StoredMessage] = []
    # The first question alone: mostly there is nothing, or only what is too new.
    parts, asked = [(first, last)], 0
    while parts := [(start, min(end, last)) for start, end in parts if start <= min(end, last)]:
        if asked >= most:
            return Walked(_sorted(found), min(start for start, _ in parts))
        now, parts = parts[:_AT_ONCE], parts[_AT_ONCE:]
        asked += len(now)
        answers = await _all(next_message, [start for start, _ in now])
        left = []
        for (_, end), message in zip(now, answers, strict=True):
            if message is None or message.sequence > end:
                continue
            if is_too_new(message):
                last = min(last, message.sequence - 1)
                continue
            found.append(message)
            left.append((message.sequence + 1, end))
        parts = _divided(left) + parts
    return Walked(_sorted(one for one in found if one.sequence <= last), None)


async def _all(
    next_message: Callable[[int], Awaitable[StoredMessage | None]], starts: list[int]
) -> list[StoredMessage | None]:
    """Ask at each of `starts` at once; when one question fails, wait for the others and raise its error."""
    answers = await asyncio.gather(*map(next_message, starts), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def _divided(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Divide each part so that about as many questions can be asked at once as may be."""
    pieces = max(1, _AT_ONCE // max(1, len(parts)))
    divided = []
    for start, end in parts:
        width = max(1, -(-(end - start + 1) // pieces))
        divided += [(at, min(at + width - 1, end)) for at in range(start, end + 1, width)]
    return divided


def _sorted(messages: Iterable[StoredMessage]) -> list[StoredMessage]:
    return sorted(messages, key=lambda one: one.sequence)
