"""What the README and the pages point to is there, and the pages' commands run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport
from natsdisc.server import NatsServer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
# Its commands need each other: tests/server/test_readme.py runs them.
QUICKSTART = DOCS / "quickstart.md"
COMMANDS = [
    line.partition("  #")[0].strip()
    for page in sorted(DOCS.rglob("*.md"))
    if page != QUICKSTART
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
]
# The last of an option counts: the same command, on a small scale.
SMALL = ["--registrations", "20", "--processes", "2", "--watchers", "2", "--ttl", "1", "--seconds", "1"]
PATIENCE = 120


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a `#` link can name: the headings as the usual renderers write them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tests|docker|docs|natsdisc)/[\w./-]+)`", prose(page)):
        assert (ROOT / name).exists(), name


def test_every_page_is_linked() -> None:
    """README links the pages in docs/, and a page there links those in a folder below."""
    texts = {page: page.read_text() for page in PAGES}
    for page in DOCS.rglob("*.md"):
        path = page.relative_to(DOCS)
        if page.parent == DOCS and page.name != "index.md":
            assert f"](docs/{path}" in texts[PAGES[0]], path
        elif page.parent != DOCS and page.name != "index.md":
            assert any(f"]({path}" in text for other, text in texts.items() if other.parent == DOCS), path


def test_every_public_name_is_in_the_reference() -> None:
    told = re.findall(r"^::: natsdisc\.(\w+)$", (DOCS / "reference" / "index.md").read_text(), re.MULTILINE)
    assert sorted({*natsdisc.__all__} - {*told}) == []


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 150


async def test_the_commands_of_the_pages() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with NatsServer() as server, natsdisc.connect(server.url) as discovery:
        await discovery.register(EndpointSpec("shop", "cart", "pay", transport=Transport.http("http://a")))
        for command in COMMANDS:
            words = shlex.split(command)
            match words:
                case ["natsdisc", *arguments]:
                    run = ["-m", "natsdisc.cli", *arguments]
                case ["python", "-m", "tests.benchmarks.sizing", *arguments]:
                    run = ["-m", "tests.benchmarks.sizing", *arguments, *SMALL]
                case _:
                    pytest.fail(f"nobody runs this command: {command}")
            done = await _run([sys.executable, *run], {**environment, "NATS_URL": server.url})
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert len(await discovery.list(natsdisc.endpoints())) == 1
    assert len(COMMANDS) >= 5


async def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, env=environment
    )
