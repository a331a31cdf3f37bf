"""The programs of docs/lifecycle.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from natsdisc.server import NatsServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def url() -> object:
    with NatsServer() as server:
        yield server.url


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs(number: int, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[number]],
        env={**os.environ, "NATS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
