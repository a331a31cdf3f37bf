"""The command line in odd surroundings: narrow terminals, closed streams, an early Ctrl-C, completion."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import natsdisc
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from tests.rig import eventually
from tests.server.shell import COMMAND, PATIENCE, Shell, ended, on_terminal

COMPLETED = "import sys; sys.argv[0] = 'natsdisc'; from natsdisc.cli import main; main()"
ADDRESS = "http://a-host-with-a-long-name.example.org:8080/a/path"
# Sends itself Ctrl-C as soon as nats-py is imported.
EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "nats":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import natsdisc_command
natsdisc_command.main()
"""


def spec(endpoint: str = "checkout", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.http(ADDRESS), metadata=metadata)


@pytest.mark.parametrize("columns", [60, 80])
async def test_nothing_is_cut_on_a_narrow_terminal(
    shell: Shell, registry: list[str], discovery: Discovery, columns: int
) -> None:
    await discovery.register(spec(zone="a"))
    await discovery.register(spec("pay"))
    async with on_terminal(shell, "ls", *registry, columns=columns) as terminal:
        await terminal.end()
    assert terminal.text.split("\n") == [
        "shop/cart/checkout/1f",
        "  transport  http",
        f"  address    {ADDRESS}",
        '  metadata   {"zone":"a"}',
        "shop/cart/pay/1f",
        "  transport  http",
        f"  address    {ADDRESS}",
    ]
    async with on_terminal(shell, "top", *registry, columns=columns - 20) as terminal:
        await eventually(lambda: terminal.shows("quits"), PATIENCE)
        terminal.type(b"q")
        await terminal.end()
    assert terminal.code == 0
    assert terminal.shows("shop/cart")
    assert terminal.shows("no room for: ") is (columns == 60)


async def test_closed_and_full_streams(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec())
    command = " ".join([*COMMAND, "ls", *registry])
    for redirection, code, words in (
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("<&-", 0, ""),
        (">/dev/full", 1, "space"),
    ):
        outcome = await shell.run(f"exec {command} {redirection}", command=["sh", "-c"])
        assert (outcome.code, "Traceback" in outcome.err) == (code, False), (redirection, outcome)
        assert words in outcome.err
        assert "Exception" not in outcome.err


async def test_characters_that_stdout_cannot_show(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec("日本"))
    shell.environment["PYTHONIOENCODING"] = "latin-1"
    assert "\\u65e5\\u672c" in (await shell.run("ls", *registry)).out
    assert '"\\u65e5\\u672c"' in (await shell.run("ls", "--json", *registry)).out


async def test_ctrl_c_during_the_import_is_silent(shell: Shell) -> None:
    process = await shell.start("-c", EARLY, "ls", command=[sys.executable])
    outcome = await ended(process)
    assert (outcome.code, outcome.out, outcome.err) == (-2, "", "")


async def test_completion_of_places(
    shell: Shell, registry: list[str], discovery: Discovery, nats_url: str, prefix: str
) -> None:
    await discovery.register(spec())
    await discovery.register(spec("pay"))
    shell.environment |= {
        "_NATSDISC_COMPLETE": "bash_complete",
        "NATSDISC_SERVER": nats_url,
        "NATSDISC_BUCKET_PREFIX": prefix,
    }

    async def completed(line: str, at: int) -> list[str]:
        shell.environment |= {"COMP_WORDS": line, "COMP_CWORD": str(at)}
        outcome = await shell.run("-c", COMPLETED, command=[sys.executable])
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome.out.replace("plain,", "").split()

    async def completes(line: str, at: int, words: list[str]) -> None:
        """On a busy machine the time for a completion may be over first."""

        async def does() -> bool:
            return await completed(line, at) == words

        await eventually(does, PATIENCE)

    await completes("natsdisc ls sh", 2, ["shop"])
    await completes("natsdisc ls shop cart p", 4, ["pay"])
    await completes("natsdisc watch shop/cart/", 2, ["shop/cart/checkout", "shop/cart/pay"])
    await completes("natsdisc drain shop", 2, ["shop/cart/checkout/1f", "shop/cart/pay/1f"])
    shell.environment["NATSDISC_SERVER"] = "nats://127.0.0.1:1"
    await completes("natsdisc ls sh", 2, [])


async def test_doctor_shows_nothing_to_others(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    first, last = await discovery.register(spec()), None
    async with discovery.list_and_watch(endpoints()) as events:
        assert await anext(events) == natsdisc.Added(first)
        outcome = await shell.run("doctor", "--create", *registry)
        assert outcome.code == 0, outcome
        assert "round trip          a mark is written after" in outcome.out
        last = await discovery.register(spec("last"))
        assert await anext(events) == natsdisc.Added(last)
    assert discovery.stats().invalid == 0
