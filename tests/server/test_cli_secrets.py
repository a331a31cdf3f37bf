"""Secrets of the command line: read from files, hidden in errors, and not handed on to programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from natsdisc.server import NatsServer
from tests.server.shell import Shell, fails, line_of

PASSWORD = "p@ss/w:rd, 'x\" y"
QUOTED = PASSWORD.replace('"', '\\"')
CONFIG = f'authorization {{ users: [ {{ user: ann, password: "{QUOTED}" }} ] }}'
REGISTER = ["register", "shop", "cart", "pay", "-t", "tcp=h:1"]


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=CONFIG) as server:
        yield server


async def test_a_password_comes_from_a_file_or_the_environment(
    guarded: NatsServer, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\nanother line\n")
    where = ["ls", "--json", "-s", guarded.url, "--user", "ann"]
    assert (await shell.run(*where, "--password-file", str(file))).out == "[]\n"
    shell.environment["NATS_PASSWORD_FILE"] = str(file)
    assert (await shell.run(*where)).out == "[]\n"
    fails(await shell.run(*where, "--password-file", str(file), "--password", "x"), 2, "exclude each other")
    file.write_text("")
    fails(await shell.run(*where), 2, "is empty")
    fails(await shell.run(*where, "--password-file", str(tmp_path)), 2, "directory")
    del shell.environment["NATS_PASSWORD_FILE"]
    shell.environment["NATS_PASSWORD"] = PASSWORD
    assert (await shell.run(*where)).out == "[]\n"


async def test_a_token_comes_from_a_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("to/k@en")
    async with NatsServer(config='authorization { token: "to/k@en" }') as server:
        outcome = await shell.run("ls", "--json", "-s", server.url, "--token-file", str(file))
        assert outcome.out == "[]\n", outcome
        address = server.url.replace("://", "://to/k@en@")
        assert (await shell.run("ls", "--json", "-s", address)).out == "[]\n"


async def test_a_password_is_in_no_list_of_processes(
    guarded: NatsServer, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    login = ["-s", guarded.url, "--user", "ann", "--password-file", str(file)]
    process = await shell.start(*REGISTER, *login)
    await line_of(process.stdout)
    assert all(PASSWORD not in line for line in shell.survivors())
    process.terminate()
    await process.wait()


@pytest.mark.parametrize("password", ["p@ss", "p/ss@word", "a:b@c/d?e#f", "end/"])
@pytest.mark.parametrize("command", [["ls"], ["doctor"], ["status"], ["watch"], REGISTER], ids=lambda c: c[0])
async def test_errors_and_findings_show_no_password(shell: Shell, command: list[str], password: str) -> None:
    outcome = await shell.run(*command, "-s", f"nats://ann:{password}@127.0.0.1:1")
    assert outcome.code in (1, 3)
    shown = outcome.out + outcome.err
    assert "127.0.0.1:1" in shown
    assert password not in shown
    for part in ("ss@", "ss/", "word", "a:b", "c/d", "end/"):
        assert part not in shown, shown


async def test_a_password_in_a_url_may_hold_what_it_likes(guarded: NatsServer, shell: Shell) -> None:
    address = guarded.url.replace("://", "://ann:wrong@pass/word@")
    outcome = await shell.run("ls", "-s", address)
    fails(outcome, 3, "refused")
    assert "wrong" not in outcome.err
    assert "word" not in outcome.err
    config = 'authorization { user: ann, password: "p@ss/w:rd" }'
    async with NatsServer(config=config) as server:
        address = server.url.replace("://", "://ann:p@ss/w:rd@")
        assert (await shell.run("ls", "--json", "-s", address)).out == "[]\n"
        both = f"{address},nats://ann:p@ss/w:rd@127.0.0.1:1"
        assert (await shell.run("ls", "--json", "-s", both)).out == "[]\n"
        fails(await shell.run("ls", "-s", f"{address},nats://bob:x@127.0.0.1:1"), 2, "different credentials")


async def test_a_program_gets_no_credentials_unless_it_should(guarded: NatsServer, shell: Shell) -> None:
    code = (
        "import json, os; print(json.dumps({name: value for name, value in os.environ.items() "
        "if name.startswith('NATS')}))"
    )
    program = ["--", sys.executable, "-c", code]
    secret = {"NATS_PASSWORD": PASSWORD, "NATS_URL": guarded.url.replace("://", "://ann:x@")}
    shell.environment |= {"NATS_USER": "ann", "NATSDISC_OTHER": "kept", **secret}
    shown = json.loads((await shell.run(*REGISTER, *program)).out)
    assert shown["NATS_URL"] == guarded.url
    assert shown["NATS_USER"] == "ann"
    assert shown["NATSDISC_OTHER"] == "kept"
    assert "NATS_PASSWORD" not in shown
    assert PASSWORD not in json.dumps(shown)
    asked = json.loads((await shell.run(*REGISTER, "--pass-credentials", *program)).out)
    assert {name: asked[name] for name in secret} == secret


async def test_every_secret_variable_of_the_connection_is_taken_out(shell: Shell) -> None:
    from natsdisc.cli.credentials import without_secrets

    names = ["CREDS", "KEY", "NKEY", "PASSWORD", "PASSWORD_FILE", "TOKEN", "TOKEN_FILE"]
    environment = {f"NATS_{name}": "x" for name in names} | {"PATH": os.defpath, "NATS_CA": "ca"}
    assert without_secrets(environment) == {"PATH": os.defpath, "NATS_CA": "ca"}
