"""Questions that only tools ask of a server: the streams, the user's rights, the clocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from types import TracebackType
from typing import Any, Literal, Self

from nats.errors import Error as NatsError

from ...errors import DiscoveryError, PermissionDeniedError, StoreUnavailableError
from ..snapshot import read
from . import JetStreamStore
from .api import STREAM_NOT_FOUND, ApiError, JetStreamApi
from .connection import Connection, close_connection, open_connection
from .copies import Difference, differences
from .ghosts import Ghosts, lease_time
from .marks import is_mark
from .messages import EXPECTED_SEQUENCE
from .requester import REQUEST_TIMEOUT, Requester
from .servertime import ServerTime
from .stream import Stream
from .stream_config import StreamOptions
from .stream_state import Server, StreamState
from .subjects import Subjects

__all__ = ["TOMBSTONE_TTL", "Admin", "Difference", "Server", "StreamState"]

# A fence that no message can meet: whatever carries it is refused, and changes nothing.
_NEVER = str(2**62)
# How long the marks of removals stay that a tool makes.
TOMBSTONE_TTL = "300s"
# The server's next answer tells what was asked this way.
_FLUSH_TIMEOUT = 5
# A snapshot of a million entries takes less.
_SNAPSHOT_TIMEOUT = 60.0


class Admin:
    """A connection of its own, for tools; `async with await Admin.connect(…)`."""

    def __init__(self, connection: Connection, options: StreamOptions, subjects: Subjects) -> None:
        self._connection = connection
        self._options = options
        self._refused: list[str] = []
        self._requester = Requester(connection.client)
        self._api = JetStreamApi(self._requester, subjects)
        self._store = JetStreamStore(
            connection.client, bucket_prefix=options.bucket_prefix, api_prefix=subjects.api
        )
        self._store.attach()
        connection.on_error = self._note

    @classmethod
    async def connect(
        cls,
        servers: str | list[str],
        nats_options: dict[str, Any],
        *,
        bucket_prefix: str = "",
        replicas: int | None = None,
        storage: Literal["file", "memory"] | None = None,
        domain: str | None = None,
        api_prefix: str | None = None,
    ) -> Self:
        """Connect; raises what `open_connection` does, InvalidNameError, InvalidValueError."""
        subjects = Subjects.of(domain, api_prefix)
        options = StreamOptions(bucket_prefix=bucket_prefix, replicas=replicas, storage=storage)
        return cls(await open_connection(servers, nats_options), options, subjects)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.detach()
        await self._requester.close()
        await close_connection(self._connection.client)

    @property
    def server(self) -> Server:
        """The server that answers."""
        client = self._connection.client
        info: dict[str, Any] = client._server_info
        url = client.connected_url
        return Server(
            name=str(info.get("server_name", "")),
            version=self._requester.server_version,
            url=f"{url.scheme}://{url.hostname}:{url.port}" if url is not None else "",
            cluster=info.get("cluster"),
            jetstream=bool(info.get("jetstream")),
        )

    async def round_trip(self) -> float:
        """Seconds to the server and back. Raises StoreUnavailableError."""
        started = time.monotonic()
        await self._flush()
        return time.monotonic() - started

    async def state(self, name: str) -> StreamState | None:
        """The stream behind the bucket `name`, or None. Raises what `JetStreamApi.call` does."""
        stream = self.stream(name)
        sent, wall = time.monotonic(), time.time()
        try:
            info = await self._api.call(f"STREAM.INFO.{stream.name}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        return StreamState.of(
            stream.bucket, info, fault=await self._fault(stream), wall=wall, trip=time.monotonic() - sent
        )

    async def make(self, name: str) -> None:
        """Have the bucket `name`, ready for leases where the server can hold them.

        Raises UnsupportedServerError, PermissionDeniedError, StoreUnavailableError.
        """
        stream = self.stream(name)
        await stream.ensure(leases=True, timeout=REQUEST_TIMEOUT)

    async def drop(self, name: str) -> None:
        """Delete the bucket `name` with all that is in it; one that is not there is dropped already."""
        try:
            await self._api.call(f"STREAM.DELETE.{self.stream(name).name}")
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise

    async def keys(self, name: str) -> set[str]:
        """Every key that has a message, marks of removals included."""
        return await self._below(self.stream(name), self.stream(name).subject_prefix)

    async def leases(self, name: str) -> set[str]:
        """Return every key that has a lease."""
        found = await self._below(self.stream(name), self.stream(name).lease_prefix)
        return {key for key in found if not is_mark(key)}

    async def overdue(self, name: str) -> dict[str, float]:
        """Return the keys whose leases should have fired and will not, with the seconds since they were due.

        A server that was killed brought them back. Raises what `JetStreamApi.call` does.
        """
        stream = self.stream(name)
        if not await stream.look() or not stream.leases:
            return {}
        now = stream.clock.read()
        found = await Ghosts(self._api, stream, TOMBSTONE_TTL).overdue("")
        times = {lease.subject[len(stream.lease_prefix) :]: lease_time(lease.headers) for lease in found}
        return {key: (now - at).total_seconds() for key, at in times.items() if at is not None}

    async def remove_overdue(self, name: str, keys: Collection[str]) -> int:
        """Remove those of `keys` whose leases are overdue, with their values; return how many values.

        Each removal is fenced: an owner that renews meanwhile keeps its entry.
        """
        stream = self.stream(name)
        if not await stream.look() or not stream.leases:
            return 0
        ghosts, skip = Ghosts(self._api, stream, TOMBSTONE_TTL), len(stream.lease_prefix)
        return await ghosts.remove_overdue(
            [lease for lease in await ghosts.overdue("") if lease.subject[skip:] in keys]
        )

    async def differences(self, name: str) -> list[Difference]:
        """Return which nodes' copies of the bucket `name` differ from the leader's, and in what.

        Raises what `JetStreamApi.call` does.
        """
        stream = self.stream(name)
        return await differences(self._api, stream) if await stream.look() else []

    async def values(self, name: str) -> dict[str, bytes]:
        """Every live value, whatever it is. Raises StoreUnavailableError, PermissionDeniedError."""
        return await read(self._store.bucket(name), "", name, timeout=_SNAPSHOT_TIMEOUT)

    async def now(self, name: str) -> float:
        """The server's time, in seconds since 1970; ours where it does not tell."""
        state = await self.state(name)
        return time.time() - (state.clock_offset if state is not None else 0.0)

    async def delete(self, name: str, key: str, revision: int) -> None:
        """Remove `key` if `revision` is still the last. Raises ConflictError, and what a delete does."""
        await self._store.bucket(name).delete(key, revision=revision)

    async def replies(self, subject: str, seconds: float) -> list[bytes]:
        """Return what anybody replies to an empty message on `subject` within `seconds`.

        Raises StoreUnavailableError, ClosedError.
        """
        client, found = self._connection.client, list[bytes]()
        inbox = str(client.new_inbox())
        asked = await self._requester.subscribe(inbox, lambda batch: found.extend(one[3] for one in batch))
        try:
            await client.publish(subject, b"", reply=inbox)
            await self._flush()
            await asyncio.sleep(seconds)
        except NatsError as error:
            raise StoreUnavailableError(f"could not ask on {subject}: {error}") from error
        finally:
            await asked.aclose()
        return found

    async def may_publish(self, subject: str) -> bool:
        """Whether the server lets us publish there; what is sent asks for nothing and stores nothing."""
        client = self._connection.client
        # An API request that is no JSON, or a message to a stream whose fence fails.
        headers = {EXPECTED_SEQUENCE: _NEVER}
        try:
            await client.publish(subject, b"natsdisc doctor", headers=headers)
        except NatsError as error:
            raise StoreUnavailableError(f"could not send to {subject}: {error}") from error
        return await self._was_allowed(f'publish to "{subject}"')

    async def may_subscribe(self, subject: str) -> bool:
        """Whether the server lets us listen there."""
        listening = await self._requester.subscribe(subject, lambda messages: None)
        try:
            return await self._was_allowed(f'subscription to "{subject}"')
        finally:
            await listening.aclose()

    @property
    def api(self) -> JetStreamApi:
        """The API of this connection."""
        return self._api

    @property
    def store(self) -> JetStreamStore:
        """The buckets of this connection."""
        return self._store

    def new_inbox(self) -> str:
        """A subject to be answered on."""
        return self._requester.new_inbox()

    async def _was_allowed(self, what: str) -> bool:
        # A refusal comes before the answer to a ping behind what was refused. nats-py's first ping may
        # overtake what waits in its buffer, its second does not.
        await self._flush()
        await self._flush()
        return not any(what.lower() in refusal for refusal in self._refused)

    async def _flush(self) -> None:
        try:
            await self._connection.client.flush(_FLUSH_TIMEOUT)
        except NatsError as error:
            raise StoreUnavailableError(f"the server does not answer: {error}") from error

    def _note(self, error: Exception) -> None:
        self._refused.append(str(error).lower())
        self._requester.note_error(error)

    def stream(self, name: str) -> Stream:
        """Return the stream behind the bucket `name`, not looked at yet."""
        return Stream(self._api, name, self._options, ServerTime())

    async def _fault(self, stream: Stream) -> str | None:
        try:
            await stream.look()
            stream.check()
        except (StoreUnavailableError, PermissionDeniedError):
            raise
        except DiscoveryError as error:
            return str(error)
        return None

    async def _below(self, stream: Stream, prefix: str) -> set[str]:
        """The subjects with messages, without their prefix; the server tells them in pages."""
        found: set[str] = set()
        offset = 0
        while True:
            question = {"subjects_filter": f"{prefix}>", "offset": offset}
            info = await self._api.call(f"STREAM.INFO.{stream.name}", question)
            page = info["state"].get("subjects") or {}
            found |= {subject[len(prefix) :] for subject in page}
            offset += len(page)
            if not page or offset >= int(info.get("total", 0)):
                return found
