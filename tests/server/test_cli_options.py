"""Bad command lines of the tools, and servers that are away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.shell import Shell, fails

REGISTER = ["register", "shop", "cart", "pay", "-t", "tcp=h:1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unregister"], ["PLACE"]),
        (["unregister", "shop/cart"], ["NS/COMPONENT/ENDPOINT"]),
        (["unregister", "shop/cart/pay"], ["--all"]),
        (["unregister", "shop//checkout/1f"], ["component must not be empty"]),
        (["unregister", "shop", "cart", "--id", "1"], ["NS/COMPONENT/ENDPOINT"]),
        (["unregister", "shop", "cart", "", "--id", "1"], ["endpoint must not be empty"]),
        (["unregister", "shop", "cart", "pay", "--id", "xyz"], ["hexadecimal"]),
        (["unregister", "a/b/c/1", "--suffix", "s"], ["--suffix"]),
        (["drain"], ["PLACE"]),
        (["drain", "x"], ["NS/COMPONENT/ENDPOINT"]),
        (["tree", ""], ["namespace must not be empty"]),
        (["tree", "a", "b", "c", "1", "2"], ["5 parts"]),
        (["top", "--frames"], ["--frames"]),
        (["status", "extra"], ["unexpected extra argument"]),
        (["doctor", "--role", "king"], ["king"]),
        (["doctor", "--component", "cart"], ["--namespace"]),
        (["doctor", "--replicas", "9"], ["9"]),
        (["doctor", "--bucket-prefix", "a b"], ["a b"]),
        (["doctor", "--server", "http://127.0.0.1:1"], ["http"]),
        (["prune"], ["PATTERN"]),
        (["prune", "--older-than", "soon"], ["15m"]),
        (["prune", "--older-than", "1y"], ["15m"]),
        (["prune", "--older-than", "9" * 20 + "d"], ["15m"]),
        (["history", "--at", "soon"], ["14:03"]),
        (["history", "--at", "2999-01-01"], ["in the future"]),
        (["history", "enable", "--keep", "1s"], ["60"]),
        (["acl"], ["--role", "reader, registrar, operator", "natsdisc acl --help"]),
        (["acl", "--role", "reader", "--component", "cart"], ["--namespace"]),
        (["acl", "--role", "operator", "--namespace", "shop"], ["not confined"]),
        (["acl", "--role", "reader", "--create"], ["--create"]),
        (["acl", "--role", "reader", "--namespace", ""], ["must not be empty"]),
        (["acl", "--role", "reader", "--inbox-prefix", "a.>"], ["wildcards"]),
        (["acl", "--role", "reader", "--bucket-prefix", "a.b"], ["a.b"]),
        ([*REGISTER, "--"], ["no command"]),
        ([*REGISTER, "--", "no-such-program-anywhere"], ["no-such-program-anywhere"]),
        ([*REGISTER, "sleep", "60"], ["5 parts"]),
        ([*REGISTER, "--drain", "-1"], ["-1"]),
    ],
)
async def test_a_bad_command_line_exits_with_2(shell: Shell, arguments: list[str], words: list[str]) -> None:
    fails(await shell.run(*arguments), 2, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["unregister", "a/b/c/1"],
        ["drain", "a/b/c/1"],
        ["tree"],
        ["status"],
        ["prune", "*"],
        ["top", "--once"],
    ],
)
async def test_no_server_exits_with_3(shell: Shell, arguments: list[str]) -> None:
    fails(await shell.run(*arguments, "--server", "nats://127.0.0.1:1"), 3, "127.0.0.1:1")


async def test_no_server_means_that_no_program_is_run(shell: Shell, tmp_path: Path) -> None:
    made = tmp_path / "made"
    fails(await shell.run(*REGISTER, "-s", "nats://127.0.0.1:1", "--", "touch", str(made)), 3, "127.0.0.1:1")
    assert not made.exists()
