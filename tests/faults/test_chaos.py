"""A short chaos run; `python -m tests.faults.chaos` makes long ones."""

from __future__ import annotations

import os
from typing import Literal

import pytest

from . import chaos

SECONDS = 20.0
SLACK = 3.0  # a machine that runs tests has other things to do


@pytest.mark.skipif(
    "NATSDISC_CHAOS_SEED" not in os.environ,
    reason="set NATSDISC_CHAOS_SEED: a random run proves a seed, no change",
)
# nats-py leaves a connection to the garbage collector when a server that hangs accepts it and says nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_a_short_chaos_run(storage: Literal["memory", "file"]) -> None:
    seed = int(os.environ["NATSDISC_CHAOS_SEED"])
    await chaos.run(
        seconds=SECONDS, seed=seed, instances=40, storage=storage, discoveries=2, lease_ttl=3, slack=SLACK
    )
