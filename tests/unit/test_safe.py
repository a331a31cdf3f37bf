"""What others wrote reaches terminals, logs and JSON lines only in a form that nothing obeys."""

from __future__ import annotations

import ast
import io
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import natsdisc
from natsdisc import Added, EndpointInstance, ModelInstance, Removed, Transport, log, wire
from natsdisc.cli import demo_screen, doctor, output, render, table, top_screen, tree, watch
from natsdisc.cli.counts import Counts
from natsdisc.cli.credentials import hidden, hide
from natsdisc.cli.failure import Failure
from natsdisc.cli.finding import NOTE, Finding
from natsdisc.cli.path import path_of
from natsdisc.cli.place import Place
from natsdisc.safe import safe, safe_json, safe_lines, without_credentials

PACKAGE = Path(natsdisc.__file__).parent

# Control characters, bidirectional overrides, invisible characters, markup and escapes of several kinds.
NASTY = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
    *"\u00ad\u034f\u115f\u17b4\u180e\u2800\u3164\ufe0f\uffa0\U000e0041\U000e0101",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\r\n",
    "[red]",
    "[/]",
    ":skull:",
    "ä",
    "日本",
    "a",
]
nasty = st.lists(st.sampled_from(NASTY), min_size=1, max_size=8).map("".join) | st.text(
    min_size=1, max_size=20
)
# Names are UTF-8: lone surrogates cannot be part of one.
names = nasty.filter(lambda text: not any(unicodedata.category(c) == "Cs" for c in text))
FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: str, *, lines: bool = True) -> None:
    """Nothing in `text` is obeyed or hidden, apart from line breaks of our own."""
    for character in text:
        if not (lines and character == "\n"):
            assert unicodedata.category(character) not in FORBIDDEN, repr(character)
            assert character == " " or unicodedata.category(character) != "Zs", repr(character)
            assert safe(character) == character


@given(nasty)
def test_a_safe_text_is_one_line_and_shows_all_that_it_has(text: str) -> None:
    made = safe(text)
    clean(made, lines=False)
    assert safe(made) == made
    assert made.isascii() or not text.isascii()


@given(st.text())
def test_what_is_plain_stays(text: str) -> None:
    if all(safe(c) == c for c in text):
        assert safe(text) == text
        assert safe_json(text) == text


@given(
    st.recursive(
        nasty | st.none() | st.integers(), lambda inner: st.dictionaries(nasty, inner) | st.lists(inner)
    )
)
def test_safe_json_means_the_same(value: Any) -> None:
    for indent in (None, 2):
        document = json.dumps(value, ensure_ascii=False, indent=indent)
        made = safe_json(document)
        clean(made)
        assert json.loads(made) == value
        assert made.count("\n") == document.count("\n")


def test_lines_of_our_own_stay() -> None:
    assert safe_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


@pytest.mark.parametrize(
    ("servers", "shown"),
    [
        ("nats://u:p@h:1", "nats://h:1"),
        ("nats://u:p@ss/w:rd@h:1", "nats://h:1"),
        ("tls://tok/en@h", "tls://h"),
        ("nats://u:p,q@h:1,nats://v:r@i:2", "nats://h:1, nats://i:2"),
        (["nats://u:p@h", "u:p@i:4"], "nats://h, i:4"),
        ("u:p@h:1, i:2", "h:1, i:2"),
        ("h:1", "h:1"),
        ("nats://h\x1b[2J", "nats://h\\x1b[2J"),
    ],
)
def test_addresses_without_their_credentials(servers: str | list[str], shown: str) -> None:
    assert without_credentials(servers) == shown


@given(st.text(alphabet="ab@/:?#,'\" %", min_size=3, max_size=12))
def test_a_password_is_in_no_message(password: str) -> None:
    hide(password)
    for text in (f"cannot connect to nats://u:{password}@host:1", f"bad: {password}"):
        assert password not in hidden(text).replace("host", "H").replace("***", "H")


# Log records


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))


@given(nasty)
def test_log_records_are_safe_before_any_handler_sees_them(text: str) -> None:
    logger, kept = log.logger("natsdisc.test"), _Kept()
    logger.addHandler(kept)
    try:
        logger.warning(
            "%s in %.1f s, %d: %s", text, 1.5, 2, ValueError(text), extra=log.fields("x", key=text)
        )
        try:
            raise natsdisc.DiscoveryError(text)
        except natsdisc.DiscoveryError:
            logger.exception("failed", extra=log.fields("y", error=ValueError(text)))
    finally:
        logger.removeHandler(kept)
    assert kept.lines[0] == f"{safe(text)} in 1.5 s, 2: {safe(text)}"
    clean(kept.lines[1])
    for record in kept.records:
        for name, value in vars(record).items():
            if name.startswith("natsdisc_"):
                clean(str(value), lines=False)


def test_every_logger_of_the_library_is_a_safe_one() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "log.py" and "cli" not in path.parts:
            assert "logging.getLogger" not in path.read_text("utf-8"), f"{path}: use natsdisc.log.logger"


@given(nasty)
def test_errors_are_one_safe_line(text: str) -> None:
    for error in (natsdisc.DiscoveryError(text), natsdisc.PermissionDeniedError(text)):
        clean(str(error), lines=False)
    clean(Failure(text).message, lines=False)


# The command line


def test_commands_write_through_one_module() -> None:
    """`click.echo`, `print` and streams stand in `output` alone; rich gets cells, which are no markup."""
    forbidden = (
        "click.echo",
        "click.secho",
        "print",
        "sys.stdout.write",
        "sys.stderr.write",
        "Text.from_markup",
    )
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        if path.name in ("output.py", "__init__.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in forbidden, f"{path.name}:{node.lineno}"


def endpoint(text: str) -> EndpointInstance:
    return EndpointInstance(text, text, text, 31, transport=Transport(text, text), metadata={text: text})


def model(text: str) -> ModelInstance:
    return ModelInstance(text, text, text, 31, card={"display_name": text, text: text}, model_suffix=text)


def shown_by(function: Any, *arguments: Any) -> str:
    """What a function writes with `say` and its like."""

    @click.command()
    def command() -> None:
        function(*arguments)

    result = CliRunner().invoke(command, catch_exceptions=False)
    return result.output


def drawn(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=10_000, color_system=None, highlight=False)
    console.print(renderable, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(names)
def test_every_command_writes_safe_lines(text: str) -> None:
    instances: list[Any] = [endpoint(text), model(text)]
    written: list[str] = []
    for one, kind in zip(instances, (natsdisc.model.Kind.ENDPOINT, natsdisc.model.Kind.MODEL), strict=True):
        written.append(shown_by(table.show_table, *render.rows_of(kind, [one])))
        removed = Removed(one.id, natsdisc.RemovalReason.EXPIRED)
        for event in (Added(one), removed):
            line = shown_by(output.say_json, render.event_json(event))
            assert line.count("\n") == 1
            fields = json.loads(line)
            assert fields["id"] == path_of(one.id)
            written += [line, shown_by(watch._Lines().show, event)]
            assert written[-1].count("\n") == 1
        counts = Counts(lambda: 0.0)
        counts.take(Added(one))
        counts.say("warning", text)
        written += [line for _, _, line in counts.events]
        place = Place(natsdisc.endpoints(text))
        written += [
            shown_by(top_screen.print_once, place, counts),
            shown_by(output.say_json, output.pretty(top_screen.top_json(place, counts))),
        ]
        branches = {text: {text: {text: [one]}}}
        written += [
            shown_by(tree._write, branches),
            shown_by(output.say_json, output.pretty(tree._paths(branches))),
        ]
    listed = shown_by(output.say_json, render.instances_json(instances))
    assert json.loads(listed) == [{**json.loads(wire.dumps(one)), "id": path_of(one.id)} for one in instances]
    written += [listed, shown_by(doctor._show, Finding(text, NOTE, text, text))]
    written += [shown_by(output.say, text, (text, "red")), shown_by(Failure(text, details=[text]).show)]
    for one in written:
        clean(one)


@given(names)
def test_nothing_that_rich_draws_is_markup(text: str) -> None:
    shown = drawn(output.cell(text))
    clean(shown)
    assert shown.rstrip("\n") == safe(text).rstrip() or shown.startswith(safe(text))
    clean(drawn(output.cell(demo_screen._serves(endpoint(text)))))


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    assert drawn(output.cell("[red]x[/red]")) == "[red]x[/red]\n"
    shown = shown_by(table.show_table, *render.rows_of(natsdisc.model.Kind.ENDPOINT, [endpoint("[bold]")]))
    assert "[bold]" in shown
