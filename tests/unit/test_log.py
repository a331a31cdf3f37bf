"""Every log call of the library carries fields, and every event is documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import natsdisc
from natsdisc import log
from natsdisc.events import EVENTS
from natsdisc.store import ResyncReason

PACKAGE = Path(natsdisc.__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "fits-in.md"


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and re.match(
                r"_?log(ger)?\.(debug|info|warning|error|exception|critical|log)\b", ast.unparse(node.func)
            ):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def events() -> dict[str, str]:
    """Where each log call stands, and the event it names."""
    found = {}
    for place, call in log_calls():
        extra = "".join(ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "extra")
        match = re.match(r"log\.fields\('(\w+)'", extra)
        if extra != "log.fields(name, **fields)":  # of the table of events
            found[place] = match[1] if match else ""
    return {**found, **{f"events.py:{name}": name for name in EVENTS}}


def test_a_line_of_the_table_names_fields_of_its_own() -> None:
    for event in EVENTS.values():
        assert "%(count)d" in event.many or not event.many
        assert set(re.findall(r"%\((\w+)\)", event.text + event.many)) <= {"id", "count", "error", "callback"}


def test_every_log_call_names_its_event() -> None:
    found = events()
    assert len(found) >= 15
    assert [place for place, event in found.items() if not event] == []


def test_every_event_is_documented() -> None:
    section = PAGE.read_text("utf-8").partition("## Logs\n")[2]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")][2:]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(events().values())


def test_fields_are_texts_and_numbers_with_one_prefix() -> None:
    fields = log.fields("stale", query=natsdisc.endpoints("a"), seconds=1.5, count=2, reason=ResyncReason.GAP)
    assert fields == {
        "natsdisc_event": "stale",
        "natsdisc_query": "endpoints/a",
        "natsdisc_seconds": 1.5,
        "natsdisc_count": 2,
        "natsdisc_reason": "gap",
    }
