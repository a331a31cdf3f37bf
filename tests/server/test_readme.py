"""Every command and snippet of the README and the pages is run as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from natsdisc.measure import MEASURES
from natsdisc.server import NatsServer
from tests.rig import eventually

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))]
SNIPPETS = [code for page in PAGES for code in re.findall(r"```(?:python|js)\n(.*?)```", page, re.DOTALL)]
EXCERPTS = [snippet for snippet in SNIPPETS if snippet.startswith(("# tests/", "// tests/"))]
USERS_TESTS = [snippet for snippet in SNIPPETS if "\nasync def test_" in snippet]
PYTHON = [snippet for snippet in SNIPPETS if snippet not in EXCERPTS + USERS_TESTS]
SHELL = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README + QUICKSTART, re.DOTALL)
    for line in block.splitlines()
]
PATIENCE = 120


def test_the_readme_has_snippets_and_commands() -> None:
    assert len(PYTHON) >= 3
    assert len(EXCERPTS) >= 5
    assert len(USERS_TESTS) >= 1
    assert len(SHELL) >= 6


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with NatsServer() as server:
        yield server.url


@pytest.mark.parametrize("snippet", PYTHON, ids=range(len(PYTHON)))
def test_snippet(snippet: str, tmp_path: Path, url: str) -> None:
    program = tmp_path / "snippet.py"
    program.write_text(snippet)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env={**os.environ, "NATS_URL": url},
    )
    assert done.returncode == 0, done.stderr
    # A loaded machine is slow, and asyncio's debug mode says so.
    assert [line for line in done.stderr.splitlines() if not line.startswith("Executing <")] == []
    if "listed" in snippet:
        first, second, third = done.stdout.splitlines()
        assert re.fullmatch(r"listed shop/cart/checkout/[0-9a-f]+ shop\.cart\.checkout", first)
        assert re.fullmatch(r"added shop/cart/checkout/[0-9a-f]+", second)
        assert re.fullmatch(r"removed shop/cart/checkout/[0-9a-f]+ unregistered", third)


@pytest.mark.parametrize("snippet", USERS_TESTS, ids=range(len(USERS_TESTS)))
def test_users_tests(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "test_snippet.py").write_text(snippet)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{snippet.count('def test_')} passed" in done.stdout


@pytest.mark.parametrize("snippet", EXCERPTS, ids=range(len(EXCERPTS)))
def test_an_excerpt_is_what_the_program_says(snippet: str) -> None:
    """Other tests run the program; an excerpt may leave lines out where it says so."""
    first, *lines = (line.strip() for line in snippet.strip().splitlines())
    program = [line.strip() for line in (ROOT / first.split()[1]).read_text().splitlines()]
    at = 0
    for part in "\n".join(lines).split("\n# ...\n"):
        wanted = part.split("\n")
        found = [n for n in range(at, len(program)) if program[n : n + len(wanted)] == wanted]
        assert found, f"not in {first.split()[1]}:\n{part}"
        at = found[0] + len(wanted)


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs" / "fits-in.md").read_text()
    _, metrics, _ = re.split("## (?:Metrics|Logs)\n", page)
    table = "".join(line for line in metrics.splitlines() if line.startswith("|"))
    told = set(re.findall(r"`(natsdisc_\w+)", table))
    measured = {
        f"natsdisc_{measure.name}{'_seconds' * bool(measure.unit)}{'_total' * measure.grows}"
        for measure in MEASURES
    }
    assert told == measured


def test_the_demo_command_in_a_clean_checkout(tmp_path: Path) -> None:
    [command] = [line for line in SHELL if line.endswith("natsdisc demo")]
    checkout = _clean_copy(tmp_path)
    done = subprocess.run(
        ["sh", "-c", command], cwd=checkout, capture_output=True, text=True, timeout=PATIENCE * 3, env=_bare()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "expired" in done.stdout
    assert "unregistered" in done.stdout


def test_the_test_command_in_a_clean_checkout(tmp_path: Path) -> None:
    [command] = [line for line in SHELL if "-m pytest" in line]
    checkout = _clean_copy(tmp_path)
    # The whole suite is what is running now; that the command finds it all is seen by collecting it.
    done = subprocess.run(
        ["sh", "-c", f"{command} --collect-only -q -n 0"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        env=_bare(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_readme.py" in done.stdout


async def test_the_commands_against_a_server() -> None:
    lines = [shlex.split(line) for line in SHELL if line.startswith("natsdisc ")]
    serve, register, ls, watch, program, *others = lines
    assert [line[1] for line in lines] == [
        "serve",
        "register",
        "ls",
        "watch",
        "register",
        "doctor",
        "acl",
        "acl",
    ]
    with NatsServer() as server:  # `serve` is tried below on a port of its own
        environment = {**os.environ, "NATS_URL": server.url}
        service = await _start(register, environment)
        assert service.stdout is not None
        path = (await service.stdout.readline()).decode().strip()

        async def listed() -> bytes:
            listing = await _start(ls, environment)
            return (await listing.communicate())[0]

        assert b'"zone":"a"' in (await listed()).replace(b" ", b"")
        watching = await _start(watch, environment)
        assert watching.stdout is not None
        assert path.encode() in await watching.stdout.readline()
        service.terminate()
        assert await service.wait() == 0
        assert b"draining" in await watching.stdout.readline()
        assert b"unregistered" in await watching.stdout.readline()
        watching.terminate()
        await watching.communicate()
        assert path.encode() not in await listed()

        assert program[-1] == "8000"
        with socket.create_server(("127.0.0.1", 0)) as free:  # 8000 may be taken here
            port = str(free.getsockname()[1])
        running = await _start([word.replace("8000", port) for word in program], environment)
        await eventually(lambda: _lists(listed, b'"endpoint":"www"'), PATIENCE)
        running.terminate()
        assert await running.wait() == 128 + signal.SIGTERM
        for command in others:
            done = await _start(command, environment)
            assert (await done.communicate(), done.returncode)[1] == 0, command

    serving = await _start([*serve[:-1], "0"], dict(os.environ))
    assert serving.stdout is not None
    assert b"nats://127.0.0.1:" in await serving.stdout.readline()
    serving.terminate()
    await serving.communicate()
    await eventually(lambda: serving.returncode is not None)


async def _lists(listed: Callable[[], Awaitable[bytes]], text: bytes) -> bool:
    return text in (await listed()).replace(b" ", b"")


async def _start(command: list[str], environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "natsdisc.cli",
        *command[1:],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def _clean_copy(tmp_path: Path) -> Path:
    """What a fresh clone of this checkout would hold."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", ".servers", ".hypothesis", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def _bare() -> dict[str, str]:
    """The environment without the virtual environment that the tests run in."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    scripts = os.path.dirname(sys.executable)
    environment["PATH"] = os.pathsep.join(
        part for part in os.environ["PATH"].split(os.pathsep) if part != scripts
    )
    return environment
