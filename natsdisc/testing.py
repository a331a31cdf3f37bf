"""For users' tests: what a test needs to do to a Discovery, or a registry, that a program never would.

The fixtures of the pytest plugin are in `pytest_natsdisc`.
"""

from __future__ import annotations

from typing import Any

from .discovery import Discovery
from .entry import BUCKETS
from .store.jetstream.admin import Admin

__all__ = ["crash", "delete_registry"]


async def crash(discovery: Discovery) -> None:
    """End `discovery` as `kill -9` would: nothing is unregistered, and its leases run out."""
    discovery._registrar.abandon()
    await discovery.close()


async def delete_registry(servers: str | list[str], bucket_prefix: str = "", **nats_options: Any) -> None:
    """Delete the buckets of a registry, with everything in them.

    Raises StoreUnavailableError, PermissionDeniedError, InvalidNameError, InvalidValueError.
    """
    async with await Admin.connect(servers, nats_options, bucket_prefix=bucket_prefix) as admin:
        for bucket in BUCKETS.values():
            await admin.drop(bucket)
