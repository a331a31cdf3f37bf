"""Single messages and subjects of a stream, as its leader has them."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, NamedTuple

from .api import NO_MESSAGE_FOUND, STREAM_NOT_FOUND, ApiError, JetStreamApi
from .messages import parse_headers
from .requester import REQUEST_TIMEOUT

__all__ = ["StoredMessage", "StreamMessages"]

# As an offset it asks for the number of subjects alone.
_BEYOND_THE_LAST = 2**31


class StoredMessage(NamedTuple):
    """A message as the stream's leader has it."""

    subject: str
    sequence: int
    stored: datetime
    headers: dict[str, str]
    data: bytes
    whole: bool = True  # whether its header block ends as a header block should


class StreamMessages:
    """Questions to the leader of the stream `name`. Each raises what `JetStreamApi.call` raises."""

    def __init__(self, api: JetStreamApi, name: str) -> None:
        self.name = name
        self._api = api

    async def subjects(self, filter: str) -> set[str]:
        """Return the subjects below `filter` that have a message; none when there is no stream."""
        found, _ = await self.leader_subjects(filter)
        return found

    async def leader_subjects(self, filter: str) -> tuple[set[str], int]:
        """Return the subjects below `filter` that the leader has, and the last sequence that it knew then.

        A subject whose message is newer than that sequence may be missing.
        """
        found: set[str] = set()
        last: int | None = None
        while True:
            info = await self._subject_page(filter, len(found))
            if info is None:
                return set(), 0
            with self._api.understanding(f"STREAM.INFO.{self.name}"):
                page = info["state"].get("subjects") or {}
                found.update(page)
                last = int(info["state"]["last_seq"]) if last is None else last
                if not page or len(found) >= info.get("total", 0):  # the server sends 100,000 at a time
                    return found, last

    async def count(self, filter: str, timeout: float = REQUEST_TIMEOUT) -> int:
        """Return how many subjects below `filter` have a message; 0 when there is no stream."""
        info = await self._subject_page(filter, _BEYOND_THE_LAST, timeout)
        with self._api.understanding(f"STREAM.INFO.{self.name}"):
            return int(info.get("total", 0)) if info is not None else 0

    async def _subject_page(
        self, filter: str, offset: int, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any] | None:
        body = {"subjects_filter": filter, "offset": offset}
        try:
            return await self._api.call(f"STREAM.INFO.{self.name}", body, timeout=timeout)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def last_message(self, subject: str, timeout: float = REQUEST_TIMEOUT) -> StoredMessage | None:
        """Return the leader's last message of `subject`; None without one."""
        return await self._message({"last_by_subj": subject}, timeout)

    async def next_message(self, filter: str, sequence: int) -> StoredMessage | None:
        """Return the leader's first message at `sequence` or later whose subject `filter` matches."""
        return await self._message({"seq": sequence, "next_by_subj": filter}, REQUEST_TIMEOUT)

    async def _message(self, question: dict[str, Any], timeout: float) -> StoredMessage | None:
        try:
            answer = await self._api.call(f"STREAM.MSG.GET.{self.name}", question, timeout=timeout)
        except ApiError as error:
            if error.err_code in (NO_MESSAGE_FOUND, STREAM_NOT_FOUND):
                return None
            raise
        with self._api.understanding(f"STREAM.MSG.GET.{self.name}"):
            found = answer["message"]
            block = base64.b64decode(found.get("hdrs") or "")
            return StoredMessage(
                found["subject"],
                int(found["seq"]),
                datetime.fromisoformat(found["time"]),
                parse_headers(block),
                base64.b64decode(found.get("data") or ""),
                not block or block.endswith(b"\r\n\r\n"),
            )
