"""The types as users see them: snippets of the documents under `mypy --strict`, as `typing_view.py` is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Whole programs; what is an excerpt of an example is checked with the example.
SNIPPETS = [
    snippet
    for page in (ROOT / "README.md", ROOT / "docs" / "testing.md", ROOT / "docs" / "lifecycle.md")
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if "asyncio.run(" in snippet
]


def test_the_snippets_are_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is in the extra `dev`")
    assert len(SNIPPETS) >= 2
    for number, snippet in enumerate(SNIPPETS):
        (tmp_path / f"snippet{number}.py").write_text(snippet)
    options = ["--strict", f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("*.py")))],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
