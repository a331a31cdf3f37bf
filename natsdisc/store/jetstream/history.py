"""The history of a bucket: a stream of its own, into which the server copies each message of the bucket.

The bucket keeps the last message of each key; the history keeps all that the server copied, for a time. The
server copies a moment after it stores: a value that is replaced before that is missed. Leases lie on other
subjects and are not copied.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from ...errors import NoHistoryError, PermissionDeniedError, StoreUnavailableError
from ...model import RemovalReason
from .api import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, ApiError, JetStreamApi
from .messages import Forged, known_headers, removal

__all__ = ["DEFAULT_KEEP_S", "DEFAULT_MAX_BYTES", "History", "HistoryState", "Past", "history_name"]

DEFAULT_KEEP_S = 7 * 86400.0
DEFAULT_MAX_BYTES = 256 * 1024 * 1024
_NS = 1_000_000_000
_LONGEST_DUPLICATE_WINDOW_S = 120.0  # the server's default, and no more than the messages are kept
_NO_PEERS = (10005, 10074)
_REPLICAS_IN_A_CLUSTER = 3
# One request asks for this many messages and bytes at most: no subscription of nats-py overflows.
_BATCH, _BATCH_BYTES = 1000, 4 * 1024 * 1024
# The server answers a batch at once; this long (seconds) without a message means that it does not.
_PATIENCE_S = 5.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Past:
    """One message of the past: a value of `key`, or with a `reason` its removal."""

    key: str
    time: datetime  # when the server copied it, in UTC
    value: bytes
    reason: RemovalReason | None


@dataclass(frozen=True, slots=True)
class HistoryState:
    """The stream of a history: how long it keeps messages (seconds), and what it holds."""

    name: str
    keep_s: float
    max_bytes: int
    replicas: int
    messages: int
    size: int  # bytes
    since: datetime | None  # time of the oldest message


def history_name(bucket: str) -> str:
    """Return the name of the stream that holds the history of `bucket`, a name with its prefix."""
    return f"NATSDISC_HISTORY_{bucket}"


class History:
    """The history of one bucket, on a connection that others own."""

    def __init__(self, client: Client, api: JetStreamApi, bucket: str) -> None:
        self.name = history_name(bucket)
        self._client = client
        self._api = api
        self._bucket = bucket
        self._subjects = f"$KV.{bucket}."

    async def enable(
        self,
        *,
        keep_s: float = DEFAULT_KEEP_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        replicas: int | None = None,
    ) -> None:
        """Make the stream, or change how much it keeps: messages of `keep_s` seconds, `max_bytes` in all.

        `replicas=None` keeps those that it has; a new one in a cluster has three, or one where there are
        fewer servers. Raises what `JetStreamApi.call` does.
        """
        wanted = replicas
        if wanted is None:
            state = await self.state()
            clustered = bool(self._client._server_info.get("cluster"))
            wanted = state.replicas if state is not None else (_REPLICAS_IN_A_CLUSTER if clustered else 1)
        while True:
            config = self._config(keep_s, max_bytes, wanted)
            try:
                await self._api.call(f"STREAM.CREATE.{self.name}", config)
            except ApiError as error:
                if error.err_code == STREAM_NAME_IN_USE:
                    await self._api.call(f"STREAM.UPDATE.{self.name}", config)
                    return
                if error.err_code in _NO_PEERS and replicas is None and wanted > 1:
                    wanted = 1
                    continue
                raise
            return

    async def disable(self) -> bool:
        """Delete the stream with all that it holds; return whether there was one."""
        try:
            await self._api.call(f"STREAM.DELETE.{self.name}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return False
            raise
        return True

    async def state(self) -> HistoryState | None:
        """Return the state of the stream; None when there is none."""
        try:
            info = await self._api.call(f"STREAM.INFO.{self.name}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        config, state = info["config"], info["state"]
        return HistoryState(
            name=self.name,
            keep_s=int(config["max_age"]) / _NS,
            max_bytes=int(config["max_bytes"]),
            replicas=int(config["num_replicas"]),
            messages=int(state["messages"]),
            size=int(state["bytes"]),
            since=_time(state["first_ts"]) if state["messages"] else None,
        )

    async def read(self, prefix: str, since: datetime | None = None) -> AsyncIterator[Past]:
        """Yield what is kept below the tokens of `prefix`, the oldest first, from `since` on.

        Raises NoHistoryError, StoreUnavailableError, PermissionDeniedError.
        """
        filter = f"{self._subjects}{prefix}.>" if prefix else f"{self._subjects}>"
        start: dict[str, Any] = {"seq": 1}
        if since is not None:
            start = {"start_time": since.isoformat().replace("+00:00", "Z")}
        while True:
            question = {**start, "next_by_subj": filter, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
            messages, more = await self._batch(question)
            for message in messages:
                past = self._past(message)
                if past is not None:
                    yield past
            if not more:
                return
            start = {"seq": int(messages[-1].headers["Nats-Sequence"]) + 1}

    async def _batch(self, question: dict[str, Any]) -> tuple[list[Any], bool]:
        """Return some messages, and whether there are more."""
        for left in reversed(range(_TRIES)):
            try:
                return await self._ask(question)
            except NatsTimeoutError:
                if not left:
                    raise StoreUnavailableError(
                        f"could not read the history {self.name}: no answer within {_PATIENCE_S:g} s; it may "
                        "have no leader, or this user may not publish to $JS.API.DIRECT.GET"
                    ) from None
            except NatsError as error:
                raise StoreUnavailableError(f"could not read the history {self.name}: {error}") from error
        raise AssertionError("unreachable")

    async def _ask(self, question: dict[str, Any]) -> tuple[list[Any], bool]:
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        messages: list[Any] = []
        try:
            subject = self._api.subjects.call(f"DIRECT.GET.{self.name}")
            await self._client.publish(subject, json.dumps(question).encode(), reply=inbox)
            while True:
                message = await subscription.next_msg(timeout=_PATIENCE_S)
                status = (message.headers or {}).get("Status")
                if status is None:
                    messages.append(message)
                elif status == "204":  # the end of a batch
                    return messages, bool(messages) and int(message.headers.get("Nats-Num-Pending", 0)) > 0
                elif status == "404":  # nothing, or nothing more
                    return messages, False
                elif status == "503":
                    raise await self._missing()
                else:
                    text = f"{status} {message.headers.get('Description', '')}"
                    raise StoreUnavailableError(f"could not read the history {self.name}: {text}")
        finally:
            await asyncio.shield(subscription.unsubscribe())

    async def _missing(self) -> Exception:
        """Return the error for a stream that does not answer."""
        try:
            if await self.state() is not None:
                return StoreUnavailableError(f"could not read the history {self.name}: it has no leader now")
        except PermissionDeniedError:
            pass  # a reader of one namespace may not look
        return NoHistoryError(
            f"the bucket {self._bucket} has no history: an operator makes one with `natsdisc history enable`"
        )

    def _past(self, message: Any) -> Past | None:
        headers = known_headers(message.headers) or {}
        subject = headers["Nats-Subject"]
        key = subject.removeprefix(self._subjects)
        reason = removal(headers, f"$NATSDISC.LEASE.{self._bucket}.{key}")
        if isinstance(reason, Forged):
            return None
        return Past(key, _time(headers["Nats-Time-Stamp"]), bytes(message.data), reason)

    def _config(self, keep_s: float, max_bytes: int, replicas: int) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": f"history of the natsdisc bucket {self._bucket}",
            "sources": [{"name": f"KV_{self._bucket}", "filter_subject": f"{self._subjects}>"}],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "compression": "s2",
            "num_replicas": replicas,
            "max_age": int(keep_s * _NS),
            "max_bytes": max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "duplicate_window": int(min(keep_s, _LONGEST_DUPLICATE_WINDOW_S) * _NS),
            "allow_direct": True,
        }


def _time(text: str) -> datetime:
    """Return the time that the server wrote, to the microsecond."""
    whole, dot, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}{dot}{fraction[:6]:0<6}+00:00" if dot else f"{whole}+00:00")
