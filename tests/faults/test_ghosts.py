"""What a killed server brings back reaches no reader: a slice of the matrix of `tests.faults.ghosts`."""

from __future__ import annotations

import pytest

from tests.rig import LONG, server_binary

from .ghost_run import Setting, run
from .ghosts import SETTINGS, bound_of

# On a machine with much to do the bounds stretch; the program itself holds to those that are promised.
SLACK = 1.0 if LONG else 2.0
SLICE = (Setting(1, "file", "one"), Setting(3, "file", "one"), Setting(3, "memory", "all"))


@pytest.mark.parametrize("setting", SETTINGS if LONG else SLICE, ids=str)
async def test_what_comes_back_reaches_nobody(setting: Setting) -> None:
    """Every way to end and any number of renewals, with and without a living process beside."""
    outcomes = await run(setting, server_binary(setting.version))
    problems = {
        str(case): found
        for case, outcome in outcomes.items()
        if (found := outcome.problems(bound_of(case, SLACK)))
    }
    assert not problems, problems
