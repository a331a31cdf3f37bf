"""For users' tests: what a test needs to do to a Discovery that a program never would."""

from __future__ import annotations

from .discovery import Discovery

__all__ = ["crash"]


async def crash(discovery: Discovery) -> None:
    """End `discovery` as `kill -9` would: nothing is unregistered, and its leases run out."""
    discovery._registrar.abandon()
    await discovery.close()
