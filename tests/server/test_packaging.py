"""What is built and installed: the same bytes each time, with the plugin, the types and the command."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A fixed time, in seconds since 1970, as a release pipeline gives the time of its commit.
EPOCH = "1700000000"


def build(source: Path, target: Path) -> dict[str, str]:
    """Build a wheel and an sdist; return the hash of each by its name."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
    )
    assert done.returncode == 0, done.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, which were built twice, in two places, with the same result."""
    top = tmp_path_factory.mktemp("packaging")
    skipped = shutil.ignore_patterns(".*", "__pycache__")
    hashes = []
    for name in ("one", "another"):
        source = top / name
        shutil.copytree(ROOT, source, ignore=skipped)
        hashes.append(build(source, top / f"{name}.dist"))
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 2
    return top / "one.dist"


def test_the_wheel_has_the_package_its_types_the_plugin_and_the_command(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [entries] = [name for name in names if name.endswith("entry_points.txt")]
        points = archive.read(entries).decode()
    assert {"natsdisc/py.typed", "natsdisc/sync/__init__.py", "natsdisc/integrations/httpx.py"} <= names
    assert {"pytest_natsdisc/py.typed", "pytest_natsdisc/__init__.py"} <= names
    assert not [name for name in names if name.startswith("tests/")]
    assert "natsdisc = natsdisc_command:main" in points
    assert "natsdisc = pytest_natsdisc" in points


def test_the_sdist_has_what_its_tests_need(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "tests/conftest.py", "docs/index.md", "LICENSE"} <= names


def test_an_installed_wheel_works_without_its_extras(built: Path, tmp_path: Path) -> None:
    """As with pipx or uvx: what is imported comes from the wheel, and the command names the missing extra."""
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "for extra in ('click', 'rich', 'httpx', 'starlette', 'prometheus_client', 'nkeys'):\n"
        "    sys.modules[extra] = None\n"
        "import natsdisc, natsdisc.sync, natsdisc.integrations.micro, pytest_natsdisc\n"
        f"assert natsdisc.__file__.startswith({str(tmp_path)!r})\n"
        "from natsdisc.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "natsdisc: the command line is an extra: pip install 'natsdisc[cli]'\n"
