"""The JetStream API in JSON over NATS (ADR-1, ADR-31), and its errors as natsdisc's."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from ...errors import ConflictError, DiscoveryError, PayloadTooLargeError, StoreUnavailableError
from .link import REQUEST_TIMEOUT, Headers, Link, Msg, Pending

__all__ = [
    "ApiError",
    "FenceInFlightError",
    "JetStreamApi",
    "NoJetStreamError",
    "NoResponderError",
    "PendingAck",
    "WrongSequenceError",
]

# Codes of nats-server's errors.json.
STREAM_NOT_FOUND = 10059
WRONG_LAST_SEQUENCE = 10071
FENCE_IN_FLIGHT = 10164
MESSAGE_TOO_LARGE = 10054
NO_MESSAGE_FOUND = 10037
STREAM_NAME_IN_USE = 10058


class ApiError(DiscoveryError):
    """The server answered with an error."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} (error {err_code or code})")
        self.code = code
        self.err_code = err_code


class WrongSequenceError(ConflictError):
    """A fence failed: the last message of the subject is not the expected one."""


# A server that starts answers $JS.API some moments after it takes connections.
JETSTREAM_PATIENCE = 2.0


class NoResponderError(StoreUnavailableError):
    """Nobody listens: no such stream, or a stream without a leader."""


class FenceInFlightError(StoreUnavailableError):
    """Another message fenced on the same key is on its way through the replicas: ask again later."""


class NoJetStreamError(NoResponderError):
    """Nobody answers the JetStream API."""


class PendingAck:
    """A message on its way to a stream."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    async def sequence(self, timeout: float = REQUEST_TIMEOUT) -> int:
        """Return the sequence at which it was stored; wait at most `timeout` seconds.

        Raises WrongSequenceError, NoResponderError, ApiError, and what `Pending.answer` raises. An answer
        that names another stream than the subject's counts as none.
        """
        subject = self._pending.subject
        fields = _parse(await self._pending.answer(timeout), subject)
        if fields.get("stream") != _stream_of(subject):
            raise StoreUnavailableError(
                f"the answer to {subject} comes from the stream {fields.get('stream')!r:.80} and not from "
                f"{_stream_of(subject)}: somebody else sends to this connection's inbox"
            )
        return int(fields["seq"])


class JetStreamApi:
    """Requests to `$JS.API` and publishes to streams."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def call(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any]:
        """The answer to an API request; raises ApiError, NoResponderError, and what `Link` raises."""
        subject = f"$JS.API.{subject}"
        payload = json.dumps(body).encode() if body is not None else b""
        return _parse(await self.link.request(subject, payload, timeout=timeout), subject)

    async def ask_until_answered(
        self, subject: str, *, every: float, timeout: float
    ) -> tuple[float, dict[str, Any]]:
        """`call`, said again every `every` seconds; the first answer, and when its question was sent.

        A question that finds no leader is dropped in silence, and an answer may take longer than `every`.
        Raises what `call` raises, after `timeout` seconds StoreUnavailableError.
        """
        deadline = time.monotonic() + timeout
        asked: set[asyncio.Task[tuple[float, dict[str, Any]]]] = set()
        error: StoreUnavailableError | None = None
        try:
            while (left := deadline - time.monotonic()) > 0:
                asked.add(asyncio.create_task(self._timed_call(subject, left)))
                next_at = time.monotonic() + every
                while asked and (pause := min(next_at, deadline) - time.monotonic()) > 0:
                    done, asked = await asyncio.wait(
                        asked, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        try:
                            return task.result()
                        except StoreUnavailableError as refusal:
                            error = refusal
                if not asked:
                    await asyncio.sleep(max(0.0, min(next_at, deadline) - time.monotonic()))
            raise error or StoreUnavailableError(f"no answer to $JS.API.{subject} within {timeout:g} s")
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _timed_call(self, subject: str, timeout: float) -> tuple[float, dict[str, Any]]:
        sent = time.monotonic()
        return sent, await self.call(subject, timeout=timeout)

    async def publish(self, subject: str, payload: bytes, headers: Headers) -> PendingAck:
        """Send a message to a stream; its fate is the PendingAck's."""
        return PendingAck(await self.link.send(subject, payload, headers))


def _stream_of(subject: str) -> str:
    """Return the stream that holds a key's or a lease's subject, see `Stream`."""
    tokens = subject.split(".")
    return f"KV_{tokens[1] if tokens[0] == '$KV' else tokens[2]}"


def _parse(answer: Msg, subject: str) -> dict[str, Any]:
    if answer.headers is not None and answer.headers.get("Status") == "503":
        if subject.startswith("$JS.API."):
            raise NoJetStreamError(
                f"nobody answers {subject}: JetStream is not enabled for this account on any server in "
                "reach; start nats-server with -js, or enable it for the account"
            )
        raise NoResponderError(f"no stream listens to {subject}, or it has no leader")
    fields = json.loads(answer.data)
    error = fields.get("error")
    if error is None:
        return dict(fields)
    err_code = error.get("err_code", 0)
    if err_code == WRONG_LAST_SEQUENCE:
        raise WrongSequenceError(f"{subject}: {error['description']}")
    if err_code == MESSAGE_TOO_LARGE:
        raise PayloadTooLargeError(f"{subject}: {error['description']}: see the bucket's max_value_size")
    if err_code == FENCE_IN_FLIGHT:
        raise FenceInFlightError(f"{subject}: {error['description']}")
    if error["code"] == 503:
        raise NoResponderError(f"{subject}: {error['description']}")
    raise ApiError(subject, error["code"], err_code, error["description"])
