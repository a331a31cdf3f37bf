"""`natsdisc acl`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import natsdisc
import natsdisc.acl
from natsdisc import endpoints
from natsdisc.acl import Role, permissions
from natsdisc.server import NatsServer
from tests.server.shell import Shell, fails


async def test_acl_prints_what_a_server_takes(shell: Shell) -> None:
    place = ["--namespace", "shop", "--component", "cart"]
    conf = (await shell.run("acl", "--role", "registrar", *place)).out
    assert '"$KV.v1_instances.shop.cart.>"' in conf
    async with NatsServer(config=f"authorization {{ users: [ {{ user: u, password: p, {conf} }} ] }}"):
        pass


async def test_acl_for_nsc_and_programs(shell: Shell) -> None:
    nsc = (await shell.run("acl", "--role", "reader", "--user", "ann", "--format", "nsc")).out
    assert nsc.startswith("nsc edit user --name ann ")
    assert "--allow-sub '_INBOX_ann.>'" in nsc
    for options in (["--format", "json"], ["--json"]):
        printed = json.loads((await shell.run("acl", "--role", "operator", *options)).out)
        assert printed == permissions(Role.OPERATOR, inbox_prefix="_INBOX_operator").as_dict()


async def test_each_user_has_an_inbox_prefix_of_its_own(shell: Shell) -> None:
    """By default, by name, or another one; what is printed works in variables, contexts and `connect`."""
    place = ["--role", "reader", "--namespace", "shop", "--component", "a b"]
    assert '"_INBOX_reader-shop-a=20b.>"' in (await shell.run("acl", *place)).out
    assert '"_INBOX_CN=3Dann.>"' in (await shell.run("acl", *place, "--user", "CN=ann")).out
    shared = (await shell.run("acl", *place, "--user", "ann", "--inbox-prefix", "_INBOX")).out
    assert '"_INBOX.>"' in shared
    assert "read and forge each other's answers" in " ".join(shared.replace("#", "").split())
    fails(await shell.run("acl", *place, "--user", ""), 2, "name of a user")
    conf = (await shell.run("acl", "--role", "reader", "--user", "ann")).out
    async with NatsServer(
        config=f"authorization {{ users: [ {{ user: ann, password: p, {conf} }} ] }}"
    ) as server:
        login = {"NATS_URL": server.url, "NATS_USER": "ann", "NATS_PASSWORD": "p"}
        shell.environment |= login
        fails(await shell.run("ls"), 3, "inbox")
        shell.environment["NATS_INBOX_PREFIX"] = "_INBOX_ann"
        assert (await shell.run("ls", "--json")).out == "[]\n"
        del shell.environment["NATS_INBOX_PREFIX"]
        folder = Path(shell.environment["XDG_CONFIG_HOME"]) / "nats" / "context"
        folder.mkdir(parents=True)
        (folder / "ann.json").write_text(json.dumps({"inbox_prefix": "_INBOX_ann"}))
        shell.environment["NATS_CONTEXT"] = "ann"
        assert (await shell.run("ls", "--json")).out == "[]\n"
        inbox = natsdisc.acl.inbox_prefix_of("ann")
        async with natsdisc.connect(server.url, user="ann", password="p", inbox_prefix=inbox) as discovery:
            assert await discovery.list(endpoints()) == []


@pytest.mark.parametrize("options", [["--role", "operator"], ["--role", "registrar", "--create"]])
async def test_who_may_make_streams_is_told_to_be_an_administrator(shell: Shell, options: list[str]) -> None:
    printed = " ".join((await shell.run("acl", *options)).out.replace("#", "").split())
    assert "can read and write everything in its account" in printed
    text = " ".join((await shell.run("acl", "--help")).out.split())
    assert "A user who may create a stream can read and write everything in the account" in text


async def test_the_help_says_what_is_not_protected(shell: Shell) -> None:
    text = " ".join((await shell.run("acl", "--help")).out.split())
    for limit in natsdisc.acl.LIMITS:
        assert limit in text


async def test_the_help_says_how_to_complete(shell: Shell) -> None:
    assert "_NATSDISC_COMPLETE=bash_source" in (await shell.run("--help")).out
    assert (await shell.run("doctor", "--help")).code == 0
