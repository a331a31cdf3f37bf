"""Keys and values of an attacker, on a real server: no command passes a control character on."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import AsyncIterator, Iterator

import pytest

import natsdisc
from natsdisc import EndpointSpec, ModelSpec, Transport
from natsdisc.cli.path import path_of
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.raw import Raw, headers
from tests.server.shell import PATIENCE, Shell, ended, line_of, on_terminal

KEYS = [
    b"\x1b]0;pwned\x07",
    b"a.b.\x1b[2J\x1b[31mEVIL",
    b"a.b.c.\xc2\x9b31m",
    b"a.b.\xe2\x80\xaegpj",
    b"a.b.\xe2\x80\xa8x",
    b"a.b.c.1\x1b[1A",
    b"\x08\x08\x08back",
    b"\x7fdel",
    b"a.b.\xe2\x80\x8bzero",
    b"[red]x.[/].[link=file:///]",
]
NASTY = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eabc\u2028\u200b\x08\x7f\x1b[1A[red][/]\n"
FORBIDDEN = ("\x1b]0", "\x1b[2J", "\x1b[1A", "\x07", "\x9b", "\u202e", "\u2028", "\u200b", "\x08", "\x7f")


@pytest.fixture(scope="module")
def hostile() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
async def attacked(hostile: NatsServer, shell: Shell) -> AsyncIterator[NatsServer]:
    shell.environment["NATS_URL"] = hostile.url
    async with natsdisc.connect(hostile.url, lease_ttl=None, instance_id=31) as discovery:
        await discovery.register(
            EndpointSpec("shop", NASTY, NASTY, transport=Transport(NASTY, NASTY), metadata={NASTY: NASTY})
        )
        await discovery.register(
            ModelSpec("shop", NASTY, NASTY, card={"display_name": NASTY, NASTY: NASTY}, model_suffix=NASTY)
        )
        with Raw(hostile.port) as raw:
            for bucket in (b"v1_instances", b"v1_mdc"):
                for key in KEYS:
                    raw.publish(b"$KV.%s.shop.%s" % (bucket, key), b"x")
                    lease = "Nats-Scheduler: $NATSDISC.LEASE.v1_instances.none"
                    forged = headers(lease, "Nats-Schedule-Next: purge")
                    raw.publish(b"$KV.%s.shop.%s.f" % (bucket, key), b"", forged)
                    raw.publish(b"$NATSDISC.LEASE.%s.shop.%s" % (bucket, key), b"x")
            raw.sync()
        yield hostile


def clean(text: str) -> None:
    for character in text:
        if character != "\n":
            kind = unicodedata.category(character)
            assert kind not in ("Cc", "Cf", "Zl", "Zp", "Cs"), f"{character!r} in {text!r}"


COMMANDS = [
    ["ls"],
    ["ls", "--models"],
    ["ls", "--json"],
    ["ls", "--models", "--json"],
    ["tree"],
    ["tree", "--json"],
    ["top", "--once"],
    ["top", "--json"],
    ["status"],
    ["status", "--json"],
    ["prune", "*", "--foreign-schedules"],
    ["prune", "*", "--foreign-schedules", "--json"],
    ["doctor", "--audit"],
    ["doctor", "--audit", "--json"],
    ["ls", NASTY],
    ["tree", NASTY],
    ["drain", f"shop/{NASTY}/{NASTY}/1"],
    ["unregister", "shop", NASTY, NASTY, "--id", "1"],
    ["ls", "--context", NASTY],
    ["lss" + NASTY],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:3])[:20])
async def test_no_command_passes_control_characters_on(
    attacked: NatsServer, shell: Shell, arguments: list[str]
) -> None:
    outcome = await shell.run(*arguments)
    assert "Traceback" not in outcome.err
    clean(outcome.out)
    clean(outcome.err)
    if "--json" in arguments:
        assert json.loads(outcome.out)
    # The log lines about what was skipped and ignored stay lines.
    assert all(line.startswith("natsdisc: ") for line in outcome.err.splitlines())


@pytest.mark.parametrize("arguments", [["ls"], ["tree"], ["doctor", "--audit"], ["prune", "*"]])
async def test_a_terminal_gets_nothing_that_it_obeys_but_our_colours(
    attacked: NatsServer, shell: Shell, arguments: list[str]
) -> None:
    async with on_terminal(shell, *arguments, columns=2000) as terminal:
        await terminal.end()
    assert "pwned" in terminal.raw
    for bad in FORBIDDEN:
        assert bad not in terminal.raw
    clean(terminal.text)
    assert "[red]" in terminal.text or "%5Bred]" in terminal.text  # as it is, or in a path


async def test_watch_and_top_stay_in_their_lines(attacked: NatsServer, shell: Shell) -> None:
    watching = await shell.start("watch", "--json")
    plain = await shell.start("watch", "--models")
    lines = [await line_of(watching.stdout), await line_of(plain.stdout)]
    async with on_terminal(shell, "top", columns=500) as screen:
        await eventually(lambda: screen.shows("1 instance"), PATIENCE)
        async with natsdisc.connect(attacked.url, lease_ttl=None, instance_id=7) as discovery:
            mine = await discovery.register(
                EndpointSpec("shop", NASTY, NASTY, transport=Transport(NASTY, NASTY), metadata={NASTY: NASTY})
            )
            lines.append(await line_of(watching.stdout))
            with Raw(attacked.port) as raw:
                forged = headers("Nats-Scheduler: $NATSDISC.LEASE.v1_instances.none")
                raw.publish(b"$KV.v1_instances.shop.a.b.\x1b[2J\x07", b"", forged)
                raw.sync()
            await discovery.unregister(mine)
        removed = await line_of(watching.stdout)
        assert json.loads(removed)["id"] == path_of(mine.id)
        await eventually(lambda: screen.shows("unregistered"), PATIENCE)
        screen.process.terminate()
        await screen.end()
    for bad in FORBIDDEN:
        assert bad not in screen.raw
    for line in (*lines, removed):
        clean(line)
    for process in (watching, plain):
        process.terminate()
        outcome = await ended(process)
        clean(outcome.err)
        assert outcome.out == ""
        assert all(line.startswith("natsdisc: ") for line in outcome.err.splitlines())
