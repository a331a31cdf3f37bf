"""What the tests of views share: specs, and how many readers a store serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, MemoryStore, Transport
from tests.rig import eventually

PATIENCE = 15.0


def spec(name: str = "ep", at: str = "addr", namespace: str = "ns", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "comp", name, transport=Transport.nats(at), metadata=metadata)


def metadata(instance: natsdisc.Instance) -> Mapping[str, Any]:
    return instance.metadata if isinstance(instance, EndpointInstance) else {}


async def until(condition: Any) -> None:
    await eventually(condition, PATIENCE)


async def consumers(discovery: natsdisc.Discovery) -> int:
    """How many readers of endpoints the store serves: on a server those of everybody."""
    bucket: Any = discovery._store.bucket("v1_instances")
    if isinstance(discovery._store, MemoryStore):
        return len(bucket._readers)
    info = await bucket._api.call(f"STREAM.INFO.{bucket._stream.name}")
    return int(info["state"]["consumer_count"])


async def until_consumers(discovery: natsdisc.Discovery, count: int) -> None:
    async def so_many() -> bool:
        return await consumers(discovery) == count

    await until(so_many)
