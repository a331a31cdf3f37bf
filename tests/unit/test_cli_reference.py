"""docs/cli.md is what --help says, apart from where lines break: that differs between versions of click."""

from __future__ import annotations

from pathlib import Path

from natsdisc.cli.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_page_is_what_the_help_says() -> None:
    assert PAGE.read_text("utf-8").split() == reference().split(), (
        "run: python -m natsdisc.cli.reference > docs/cli.md"
    )
