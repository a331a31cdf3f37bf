"""The messages of an open page, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson

from .live import Live, Page

__all__ = ["events"]

# Changes that come together are sent together.
_PAUSE_S = 0.25
_STATE_EVERY_S = 2.0
_ROWS_AT_ONCE = 1_000


async def events(live: Live) -> AsyncIterator[bytes]:
    """Yield all rows, then "ready", then what changes, until the page goes or the server ends.

    A page that reconnects gets all rows again, so it misses nothing.
    """
    async with live.page() as page:
        yield _message("begin", live.state())
        is_ready = False
        loop = asyncio.get_running_loop()
        state_due = loop.time() + _STATE_EVERY_S
        while live.is_running:
            if page.is_behind:
                live.fill(page)
                is_ready = False
                yield _message("begin", live.state())
            for text in _changes(page):
                yield text
            if not page.rows and not is_ready:
                is_ready = True
                yield _message("ready", live.state())
            if page.rows:
                continue
            if loop.time() >= state_due:
                state_due = loop.time() + _STATE_EVERY_S
                yield _message("state", live.state())
            page.wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, state_due - loop.time())):
                    await page.wake.wait()
                    await asyncio.sleep(_PAUSE_S)


def _changes(page: Page) -> list[bytes]:
    """Take out of `page` what one turn sends."""
    messages: list[bytes] = []
    if page.rows:
        ids = list(islice(page.rows, _ROWS_AT_ONCE))
        taken = {id: page.rows.pop(id) for id in ids}
        put = [row for row in taken.values() if row is not None]
        gone = [id for id, row in taken.items() if row is None]
        messages.append(_message("rows", {"put": put, "gone": gone}))
    if page.entries:
        messages.append(_message("journal", list(page.entries)))
        page.entries.clear()
    return messages


def _message(event: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
