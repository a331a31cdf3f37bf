"""Run the tests of what reads past nats-py with each version of it: `python -m tests.versions [TEST …]`.

Each version runs with and without its optional header parser. The packages are installed into a folder of
their own, which is put before the environment that this runs in. Fails if one run fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("2.12.0", "2.13.1", "2.14.0", "2.15.0", "2.16.0")
HEADER_PARSER = "fast-mail-parser"
TESTS = ("tests/unit/test_parser.py", "tests/unit/test_delivery.py", "tests/server/test_hostile_messages.py")


def run(packages: list[str], tests: list[str]) -> str:
    """Return the last line of a run of `tests` with these packages; raises RuntimeError if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run(
            [sys.executable, *install, "--target", folder, *packages], check=True, stderr=subprocess.DEVNULL
        )
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout[-2_000:])
        return done.stdout.rstrip().rpartition("\n")[2]


def main(tests: list[str]) -> int:
    failed = 0
    for version in VERSIONS:
        for packages in ([f"nats-py=={version}"], [f"nats-py=={version}", HEADER_PARSER]):
            try:
                print(f"{' '.join(packages):<40} {run(packages, tests)}", flush=True)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"{' '.join(packages):<40} FAILED\n{error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TESTS)))
