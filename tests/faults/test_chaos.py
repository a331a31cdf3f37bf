"""A short chaos run; `python -m tests.faults.chaos` makes long ones."""

from __future__ import annotations

import os
import secrets

import pytest

from . import chaos

SECONDS = 20.0


# nats-py leaves a connection to the garbage collector when a server that hangs accepts it and says nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_short_chaos_run() -> None:
    seed = int(os.environ.get("NATSDISC_CHAOS_SEED") or secrets.randbelow(10**6))
    await chaos.run(seconds=SECONDS, seed=seed, instances=40, discoveries=2, lease_ttl=3)
