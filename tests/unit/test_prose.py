"""Sentences that readers trip over, in code and documents: see the rules of style in CONTRIBUTING.md."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted((ROOT / "natsdisc").rglob("*.py"))
BANNED = r"(?:Who|Whoever|Whatever|What|Nobody|So many)\b"
# At the beginning of a text, a heading, a list item or a cell, and behind the end of a sentence.
OPENING = re.compile(rf"(?:^[\s#*|>\"'-]*|[.!?:]\s+[*\"']*|\|\s*){BANNED}")


def openings(text: str) -> list[str]:
    """Return the lines of `text` in which a sentence begins with a banned word."""
    return [line.strip() for line in text.splitlines() if OPENING.search(line)]


def texts(source: str) -> list[str]:
    """Return the comments and the texts of a module; lines of code are none."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            found.append(token.string.lstrip("rfbRFB"))
        elif token.type == tokenize.COMMENT:
            found.append(token.string)
    return found


def test_openings_are_found() -> None:
    assert openings('"""What came of it."""') == ['"""What came of it."""']
    assert openings("It waits. Whoever waits, hears of it.")
    assert openings("- Nobody does")
    assert openings("# So many of them")
    assert not openings("It says what happened, and to whom.")


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_documents_name_the_actor(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert openings(prose) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_names_the_actor(module: Path) -> None:
    assert [line for text in texts(module.read_text()) for line in openings(text)] == []
