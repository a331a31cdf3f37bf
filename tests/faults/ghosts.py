"""The matrix of ghosts: `python -m tests.faults.ghosts` runs every combination and prints a table.

    python -m tests.faults.ghosts --nodes 3 --storage file --killed one --version newest

Each setting (server version, nodes, storage, how many nodes are killed) is a process of its own and holds all
cases: how the instances ended, how often they had renewed, and whether their component has a living process.
The columns say for how many seconds after the servers were back any of 20 fresh readers, or a plain KV client
on any node, showed anything but who is alive. In brackets is the largest number of ghosts that it showed.
The exit code is 1 when any bound was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ghost_run import CASES, LIMIT, Case, Outcome, Setting, run
from tests.rig import server_binary

__all__ = ["BOUND_ALONE", "BOUND_LIVING", "SETTINGS", "bound_of", "main"]

BOUND_LIVING = 10.0  # seconds, for a component that has a living process
BOUND_ALONE = 60.0  # seconds, for one that has none, while any process with the permission runs
VERSIONS = ("2.12.8", "2.14.6", None)
KINDS = ("list", "view", "watch", "plain")
ENOUGH = 300.0  # seconds for one setting
ROOT = Path(__file__).resolve().parents[2]

SETTINGS = tuple(
    Setting(nodes, storage, killed, version)  # type: ignore[arg-type]
    for version, nodes, storage, killed in itertools.product(
        VERSIONS, (1, 3), ("file", "memory"), ("one", "two", "all")
    )
    if nodes == 3 or killed == "one"
)


def bound_of(case: Case, slack: float = 1.0) -> float:
    """Return after how many seconds every reader has to show this case's component as it is."""
    return slack * (BOUND_LIVING if case.living else BOUND_ALONE)


async def _run_elsewhere(setting: Setting, given: argparse.Namespace) -> tuple[str, float]:
    """Run a setting in a process of its own; return what it wrote and the seconds that it took."""
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.ghosts", "--only", json.dumps(dataclasses.asdict(setting))),
        *("--down", str(given.down), "--seed", str(given.seed)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=os.environ,
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return written.decode(errors="replace"), time.monotonic() - started


async def _run_bounded(setting: Setting, binary: Path, given: argparse.Namespace) -> dict[Case, Outcome]:
    """Run one setting; when it takes far too long, write where every task stands and end the process."""
    task = asyncio.create_task(run(setting, binary, down=given.down, seed=given.seed))
    await asyncio.wait((task,), timeout=ENOUGH)
    if not task.done():
        for each in asyncio.all_tasks():
            each.print_stack(limit=4, file=sys.stdout)
        print(f"{setting}: not done after {ENOUGH:g} s", flush=True)
        task.cancel()
        await asyncio.wait((task,), timeout=ENOUGH / 10)
        sys.exit(1)
    return task.result()


def _run_here(text: str, given: argparse.Namespace) -> None:
    """Run one setting and write its outcomes as a line of JSON."""
    setting = Setting(**json.loads(text))
    try:
        binary = server_binary(setting.version)
    except pytest.skip.Exception as error:
        sys.exit(str(error))
    outcomes = asyncio.run(_run_bounded(setting, binary, given))
    print(
        json.dumps(
            [[dataclasses.asdict(case), dataclasses.asdict(outcome)] for case, outcome in outcomes.items()]
        )
    )


def _read(written: str) -> dict[Case, Outcome] | None:
    """Return the outcomes in the last line that a process wrote; None if it failed."""
    with contextlib.suppress(ValueError, IndexError, TypeError):
        pairs: list[Any] = json.loads(written.splitlines()[-1])
        return {Case(**case): Outcome(**outcome) for case, outcome in pairs}
    return None


def _cell(seconds: float, ghosts: int) -> str:
    shown = f"> {LIMIT:.0f}" if seconds > LIMIT - 1 else f"{seconds:.1f}"
    return f"{shown} ({ghosts})" if ghosts else shown


def _row(name: str, outcomes: Sequence[Outcome], problems: int) -> str:
    cells = [
        _cell(
            max(outcome.seconds.get(kind, 0.0) for outcome in outcomes),
            max(outcome.ghosts.get(kind, 0) for outcome in outcomes),
        )
        for kind in KINDS
    ]
    removed, late = (sum(getattr(outcome, what) for outcome in outcomes) for what in ("removed", "late"))
    verdict = (
        "ok" if not problems else "FAIL" if len(outcomes) == 1 else f"FAIL {problems} of {len(outcomes)}"
    )
    return f"{name:<44} {''.join(f'{cell:>11}' for cell in cells)} {removed:>8} {late:>5}  {verdict}"


def _rows(setting: Setting, outcomes: Mapping[Case, Outcome], *, brief: bool) -> tuple[list[str], int]:
    """Return the rows of a setting, and how many of its cases missed a bound."""
    wrong = {case for case, outcome in outcomes.items() if outcome.problems(bound_of(case))}
    rows = []
    for living in (True, False):
        cases = [case for case in outcomes if case.living == living]
        where = "living" if living else "nobody"
        if brief:
            chosen = [outcomes[case] for case in cases]
            rows.append(_row(f"{setting}, {where}", chosen, len(wrong & set(cases))))
        else:
            rows += [
                _row(f"  {case.ended}, renewed {case.renewed}, {where}", [outcomes[case]], int(case in wrong))
                for case in cases
            ]
    return ([*rows] if brief else [str(setting), *rows]), len(wrong)


async def _run_all(settings: Sequence[Setting], given: argparse.Namespace) -> int:
    print(f"{'combination':<44} {''.join(f'{kind:>11}' for kind in KINDS)}  Removed  late", flush=True)
    slots, missed, failed = asyncio.Semaphore(given.jobs), 0, 0

    async def one(setting: Setting) -> None:
        nonlocal missed, failed
        async with slots:
            written, took = await _run_elsewhere(setting, given)
        outcomes = _read(written)
        if outcomes is None:
            failed += 1
            print(
                f"{setting}: did not run ({took:.0f} s)\n" + "\n".join(written.splitlines()[-12:]), flush=True
            )
            return
        rows, wrong = _rows(setting, outcomes, brief=given.brief)
        missed += wrong
        print("\n".join(rows), flush=True)

    await asyncio.gather(*map(one, settings))
    cases = len(settings) * len(CASES)
    print(f"{cases} combinations: {missed} missed a bound, {failed} settings did not run")
    return 1 if missed or failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.ghosts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, choices=[1, 3], action="append")
    parser.add_argument("--storage", choices=["file", "memory"], action="append")
    parser.add_argument("--killed", choices=["one", "two", "all"], action="append")
    parser.add_argument("--version", help="such as 2.12.8, or newest", action="append")
    parser.add_argument("--down", type=float, default=1.0, help="seconds between the kill and the restart")
    parser.add_argument("--seed", type=int, default=0, help="chooses which nodes are killed")
    parser.add_argument("--jobs", type=int, default=1, help="settings at the same time")
    parser.add_argument("--brief", action="store_true", help="two rows for a setting: the worst of its cases")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    if given.only is not None:
        _run_here(given.only, given)
        return
    versions = given.version and [None if each == "newest" else each for each in given.version]
    chosen = [
        setting
        for setting in SETTINGS
        if (not given.nodes or setting.nodes in given.nodes)
        and (not given.storage or setting.storage in given.storage)
        and (not given.killed or setting.killed in given.killed or setting.nodes == 1)
        and (not versions or setting.version in versions)
    ]
    sys.exit(asyncio.run(_run_all(chosen, given)))


if __name__ == "__main__":
    main()
