"""A KV client without natsdisc: it writes to the buckets and reads them, and knows nothing of leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

import nats
import nats.js.errors

from natsdisc import (
    EndpointInstance,
    EndpointInstanceId,
    EndpointSpec,
    Instance,
    InstanceId,
    Transport,
    keys,
    wire,
)

__all__ = ["NAMESPACES", "STREAMS", "Plain", "foreign"]

STREAMS = ("KV_v1_instances", "KV_v1_mdc")
NAMESPACES = 4


class Plain:
    """A client that writes to buckets and knows nothing of leases."""

    def __init__(self, client: nats.NATS) -> None:
        self.client = client
        self.js = client.jetstream(timeout=5)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, urls: str | Sequence[str], **options: Any) -> AsyncIterator[Plain]:
        # It is not what is tested: it comes back as soon as it can, and is quiet about it.
        settings = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1, "error_cb": _ignore, **options}
        client = await nats.connect(urls if isinstance(urls, str) else list(urls), **settings)
        try:
            yield cls(client)
        finally:
            await client.close()

    @staticmethod
    def subject(id: InstanceId) -> str:
        bucket = "v1_instances" if isinstance(id, EndpointInstanceId) else "v1_mdc"
        return f"$KV.{bucket}.{keys.key_of(id)}"

    async def put(self, instance: Instance, **headers: str) -> None:
        """A value; `headers` with `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.js.publish(self.subject(instance.id), wire.dumps(instance), headers=given or None)

    async def delete(self, id: InstanceId, operation: str = "DEL", **headers: str) -> None:
        """A tombstone; `headers` with `_` for `-`."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.js.publish(self.subject(id), headers={"KV-Operation": operation, **more})

    async def vanish(self, id: InstanceId) -> None:
        """Remove a key and every trace of it."""
        await self.js.purge_stream(_stream_of(id), subject=self.subject(id))

    async def drop_buckets(self) -> None:
        for stream in STREAMS:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await self.js.delete_stream(stream)

    async def make_buckets(self, storage: Literal["file", "memory"] = "file", **config: Any) -> None:
        """As a KV client would: without leases. A bucket that somebody else was faster to make is kept."""
        for stream in STREAMS:
            settings = {
                "name": stream,
                "subjects": [f"$KV.{stream.removeprefix('KV_')}.>"],
                "max_msgs_per_subject": 1,
                "allow_direct": True,
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "discard": "new",
                "storage": storage,
                **config,
            }
            answer = await self.client.request(
                f"$JS.API.STREAM.CREATE.{stream}", json.dumps(settings).encode()
            )
            error = json.loads(answer.data).get("error")
            assert error is None or error["err_code"] == 10058, error

    async def consumers(self) -> list[tuple[str, str]]:
        """Stream and name of each consumer there is."""
        found = []
        for stream in STREAMS:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                offset = 0
                while page := await self.js.consumers_info(stream, offset=offset):
                    found += [(stream, consumer.name) for consumer in page]
                    offset += len(page)
        return found

    async def stored(self) -> dict[str, bytes]:
        """Every value in the buckets by its subject, as the stream itself has it."""
        values: dict[str, bytes] = {}
        for stream in STREAMS:
            request = b'{"subjects_filter": "$KV.>"}'
            answer = await self.client.request(f"$JS.API.STREAM.INFO.{stream}", request, timeout=5)
            subjects = json.loads(answer.data).get("state", {}).get("subjects") or {}
            messages = await asyncio.gather(*(self._last(stream, subject) for subject in subjects))
            values |= {
                message.subject: message.data or b""
                for message in messages
                if message is not None and not _is_removal(message.headers or {})
            }
        return values

    async def _last(self, stream: str, subject: str) -> Any:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            return await self.js.get_last_msg(stream, subject)


async def _ignore(_: Exception) -> None:
    pass


def _stream_of(id: InstanceId) -> str:
    return STREAMS[0] if isinstance(id, EndpointInstanceId) else STREAMS[1]


def _is_removal(headers: Mapping[str, str]) -> bool:
    return headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers


def foreign(number: int, address: str = "foreign") -> EndpointInstance:
    """What a plain client registers."""
    namespace = f"ns{number % NAMESPACES}"
    spec = EndpointSpec(namespace, "comp", f"foreign{number}", transport=Transport.http(f"http://{address}"))
    return spec.with_instance_id(1_000 + number)
