"""The JetStream API in JSON over NATS (ADR-1, ADR-31), and its errors as natsdisc's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from ... import log
from ...errors import ConflictError, DiscoveryError, PayloadTooLargeError, StoreUnavailableError
from .gate import SnapshotGate
from .requester import REQUEST_TIMEOUT, Headers, Msg, Pending, Requester
from .requests import Pace, code_can_pass, first_answer
from .subjects import Subjects

__all__ = [
    "ApiError",
    "BusyError",
    "FenceInFlightError",
    "JetStreamApi",
    "MalformedReplyError",
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
MAXIMUM_CONSUMERS = 10026

_log = log.logger(__name__)
_LEASES = "$NATSDISC.LEASE."
# One line at most in so many seconds tells of malformed replies: a broken proxy may send thousands.
_LOG_MALFORMED_EVERY_S = 60.0


class ApiError(DiscoveryError):
    """The server answered with an error."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} (error {err_code or code})")
        self.code = code
        self.err_code = err_code


class WrongSequenceError(ConflictError):
    """A fence failed: the last message of the subject is not the expected one."""


class NoResponderError(StoreUnavailableError):
    """No subscriber answers: no such stream, or a stream without a leader."""


class FenceInFlightError(StoreUnavailableError):
    """Another message fenced on the same key is on its way through the replicas: ask again later."""


class NoJetStreamError(NoResponderError):
    """No server answers the JetStream API."""

    # A server that starts answers $JS.API some moments after it takes connections.
    patience_s = 2.0


class BusyError(StoreUnavailableError):
    """The server cannot do this now, and may later; `err_code` is its reason (nats-server's errors.json)."""

    def __init__(self, message: str, err_code: int) -> None:
        super().__init__(message)
        self.err_code = err_code


class MalformedReplyError(StoreUnavailableError):
    """A reply that cannot be read; it counts as no answer."""


class PendingAck:
    """A message on its way to a stream."""

    def __init__(self, api: JetStreamApi, pending: Pending) -> None:
        self._api = api
        self._pending = pending

    async def sequence(self, timeout: float = REQUEST_TIMEOUT) -> int:
        """Return the sequence at which it was stored; wait at most `timeout` seconds.

        Raises WrongSequenceError, NoResponderError, ApiError, and what `Pending.answer` raises. An answer
        that names another stream than the subject's counts as none.
        """
        subject = self._pending.subject
        answer = await self._pending.answer(timeout)
        with self._api.understanding(subject):
            fields = _parse(answer, subject)
            if fields.get("stream") != _stream_of(subject):
                raise StoreUnavailableError(
                    f"the answer to {subject} comes from the stream {fields.get('stream')!r:.80} and not "
                    f"from {_stream_of(subject)}: somebody else sends to this connection's inbox"
                )
            return int(fields["seq"])


class JetStreamApi:
    """Requests to the JetStream API and publishes to streams, on one connection, below `subjects`."""

    def __init__(self, requester: Requester, subjects: Subjects | None = None) -> None:
        self.requester = requester
        self.subjects = subjects if subjects is not None else Subjects()
        # The domain of the JetStream that answers, once that is known.
        self.domain = self.subjects.domain
        self.gate = SnapshotGate()
        self.pace = Pace()
        self.malformed_replies = 0
        self._malformed_logged_at = float("-inf")

    @contextmanager
    def understanding(self, subject: str) -> Iterator[None]:
        """Turn what fails while the block reads a reply to `subject` into MalformedReplyError.

        The error is counted, and logged at most once a minute.
        """
        try:
            yield
        except DiscoveryError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.malformed_replies += 1
            message = f"the reply to {subject} cannot be read ({error!r}); it is treated as no answer"
            if time.monotonic() - self._malformed_logged_at >= _LOG_MALFORMED_EVERY_S:
                self._malformed_logged_at = time.monotonic()
                _log.warning(
                    "%s; %d such replies so far; look for what answers in the server's place",
                    message,
                    self.malformed_replies,
                    extra=log.fields(
                        "malformed_reply", subject=subject, error=error, count=self.malformed_replies
                    ),
                )
            raise MalformedReplyError(message) from error

    async def call(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any]:
        """Return the answer to an API request.

        Raises ApiError; BusyError, NoResponderError and MalformedReplyError, which can pass; and what
        `Requester` raises.
        """
        subject = self.subjects.call(subject)
        payload = orjson.dumps(body) if body is not None else b""
        answer = await self.requester.request(subject, payload, timeout=timeout)
        with self.understanding(subject):
            fields = _parse(answer, subject, is_api=True)
            if isinstance(domain := fields.get("domain"), str):
                self.domain = domain
            return fields

    async def tell(self, subject: str) -> None:
        """Send an API request whose answer does not matter; nothing when the connection is down."""
        await self.requester.publish(self.subjects.call(subject))

    async def ask_until_answered(
        self, subject: str, *, every: float, timeout: float
    ) -> tuple[float, dict[str, Any]]:
        """`call`, said again every `every` seconds; the first answer, and when its question was sent.

        A question that finds no leader is dropped in silence, and an answer may take longer than `every`.
        Raises what `call` raises, after `timeout` seconds StoreUnavailableError.
        """
        deadline = time.monotonic() + timeout
        answer = await first_answer(
            lambda: self._timed_call(subject, max(0.0, deadline - time.monotonic())),
            again_after=lambda tries: every,
            left=lambda: deadline - time.monotonic(),
            keep_asking=True,
        )
        if answer is None:
            raise StoreUnavailableError(f"no answer to {self.subjects.call(subject)} within {timeout:g} s")
        return answer

    async def _timed_call(self, subject: str, timeout: float) -> tuple[float, dict[str, Any]]:
        sent = time.monotonic()
        return sent, await self.call(subject, timeout=timeout)

    async def publish(self, subject: str, payload: bytes, headers: Headers) -> PendingAck:
        """Send a message that a stream shall store under `subject`; its fate is the PendingAck's."""
        # Leases cross leaf nodes, and a bucket of the same name on the other side answers them too.
        judge = self._is_final if subject.startswith(_LEASES) and self.domain is not None else None
        where = self.subjects.publish(subject)
        return PendingAck(self, await self.requester.send(where, payload, headers, judge=judge))

    def _is_final(self, answer: Msg) -> bool | None:
        """Return whether an answer is of our domain; None for an error, which does not say its domain."""
        with suppress(ValueError, AttributeError):
            fields = orjson.loads(answer.data)
            if "error" not in fields:
                return bool(fields.get("domain") == self.domain)
        return None


def _stream_of(subject: str) -> str:
    """Return the stream that holds a key's or a lease's subject, see `Stream`; a prefix does not matter."""
    _, is_lease, lease = subject.rpartition(_LEASES)
    bucket = lease if is_lease else subject.rpartition("$KV.")[2]
    return f"KV_{bucket.partition('.')[0]}"


def _parse(answer: Msg, subject: str, *, is_api: bool = False) -> dict[str, Any]:
    if answer.headers is not None and answer.headers.get("Status") == "503":
        if is_api:
            raise NoJetStreamError(
                f"nobody answers {subject}: JetStream is not enabled for this account on any server in "
                "reach; start nats-server with -js, or enable it for the account; a domain or api_prefix "
                "must be one that exists"
            )
        raise NoResponderError(f"no stream listens to {subject}, or it has no leader")
    fields = orjson.loads(answer.data)
    error = fields.get("error")
    if error is None:
        return dict(fields)
    err_code = int(error.get("err_code", 0))
    if err_code == WRONG_LAST_SEQUENCE:
        raise WrongSequenceError(f"{subject}: {error['description']}")
    if err_code == MESSAGE_TOO_LARGE:
        raise PayloadTooLargeError(f"{subject}: {error['description']}: see the bucket's max_value_size")
    if err_code == FENCE_IN_FLIGHT:
        raise FenceInFlightError(f"{subject}: {error['description']}")
    if error["code"] == 503:
        raise NoResponderError(f"{subject}: {error['description']}")
    if code_can_pass(error["code"], err_code):
        raise BusyError(f"{subject}: {error['description']} (error {err_code or error['code']})", err_code)
    raise ApiError(subject, error["code"], err_code, error["description"])
