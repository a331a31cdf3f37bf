"""`natsdisc doctor`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

import natsdisc
import natsdisc.acl
from natsdisc import EndpointSpec, Transport
from natsdisc.acl import Permissions, Role, permissions
from natsdisc.entry import BUCKETS
from natsdisc.server import NatsServer
from tests.rig import Cluster, eventually, server_binary
from tests.server.shell import PATIENCE, Outcome, Shell, fails

# An hour ahead of everybody else.
CERTIFICATES = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"
AN_HOUR_AHEAD = (
    "import time; now = time.time; time.time = lambda: now() + 3600\nfrom natsdisc.cli import main; main()"
)


def spec(endpoint: str = "checkout", namespace: str = "shop", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


def lines_of(outcome: Outcome) -> dict[str, list[str]]:
    """The texts of the lines of each state, what to do included."""
    assert outcome.err == ""
    found: dict[str, list[str]] = {}
    state = ""
    for line in outcome.out.splitlines():
        if line.startswith(" "):
            found[state][-1] += " " + line.strip()
        else:
            state, _, rest = line.partition(" ")
            found.setdefault(state, []).append(rest.strip())
    return found


def is_broken(outcome: Outcome, *words: str) -> None:
    """Something is, one line says all of `words`, and each line says what to do."""
    assert outcome.code == 1, outcome
    broken = lines_of(outcome)["broken"]
    assert all("->" in line for line in broken)
    assert any(all(word in line for word in words) for line in broken), broken


async def test_a_healthy_registry(shell: Shell, registry: list[str], prefix: str) -> None:
    outcome = await shell.run("doctor", "--create", *registry)
    assert outcome.code == 0, outcome
    found = lines_of(outcome)
    assert found.keys() == {"ok"}
    checks = [line.split("  ")[0] for line in found["ok"]]
    assert checks == [
        "connect",
        "version",
        "role reader",
        "role registrar",
        "role operator",
        "jetstream",
        f"bucket {prefix}_v1_instances",
        f"bucket {prefix}_v1_mdc",
        f"bucket {prefix}_v1_event_channels",
        f"bucket {prefix}_v1_event_sources",
        "clock",
        "list",
        "round trip",
    ]
    again = json.loads((await shell.run("doctor", "--json", *registry)).out)
    assert {finding["state"] for finding in again} == {"ok"}
    assert again[0].keys() == {"check", "state", "text", "todo"}
    # The round trip leaves nothing but the mark of a removal.
    assert json.loads((await shell.run("ls", "--json", *registry)).out) == []


async def test_without_buckets_nothing_is_made_unasked(shell: Shell, registry: list[str]) -> None:
    outcome = await shell.run("doctor", *registry)
    assert outcome.code == 0
    assert any("--create" in line for line in lines_of(outcome)["note"])
    shown = json.loads((await shell.run("status", "--json", *registry)).out)
    assert shown["buckets"] == dict.fromkeys(BUCKETS.values())


async def test_a_clock_an_hour_off_does_not_matter(shell: Shell, registry: list[str]) -> None:
    ahead = [sys.executable, "-c", AN_HOUR_AHEAD]
    outcome = await shell.run("doctor", "--create", *registry, command=ahead)
    assert outcome.code == 0, outcome
    [clock] = [line for line in lines_of(outcome)["ok"] if line.startswith("clock")]
    assert "60 min ahead" in clock
    assert "does not matter" in clock


async def test_no_server(shell: Shell) -> None:
    is_broken(
        await shell.run("doctor", "-s", "nats://u:hidden@127.0.0.1:1"), "nothing listens", "127.0.0.1:1"
    )
    outcome = await shell.run("doctor", "-s", "nats://u:hidden@127.0.0.1:1")
    assert "hidden" not in outcome.out


async def test_no_host(shell: Shell) -> None:
    is_broken(
        await shell.run("doctor", "-s", "nats://no-such-host.invalid:4222"), "no host no-such-host.invalid"
    )


async def test_the_monitoring_port(shell: Shell) -> None:
    async with NatsServer(config='http: "127.0.0.1:-1"') as server:
        found = re.search(r"http monitor on 127\.0\.0\.1:(\d+)", server.log)
        assert found is not None
        is_broken(await shell.run("doctor", "-s", f"nats://127.0.0.1:{found[1]}"), "not a NATS server")


async def test_the_port_of_the_cluster(shell: Shell) -> None:
    cluster = 'cluster { name: c, listen: "127.0.0.1:-1" }'
    async with NatsServer(config=cluster, jetstream=False) as server:
        found = re.search(r"Listening for route connections on 127\.0\.0\.1:(\d+)", server.log)
        assert found is not None
        is_broken(await shell.run("doctor", "-s", f"nats://127.0.0.1:{found[1]}"), "for other servers")


async def test_tls_that_is_not_spoken(shell: Shell, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: nothing makes certificates")
    subprocess.run(["sh", str(CERTIFICATES), str(tmp_path)], check=True, capture_output=True)
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key"'
    async with NatsServer(config=f"tls {{ {files} }}") as server:
        is_broken(await shell.run("doctor", "-s", server.url), "wants TLS", "--tlsca")
    both = f'{files}, ca_file: "{tmp_path}/ca.pem", verify: true'
    async with NatsServer(config=f"tls {{ {both} }}") as server:
        ours = ["-s", server.url, "--tlsca", str(tmp_path / "ca.pem")]
        is_broken(await shell.run("doctor", *ours), "wants TLS and a certificate", "--tlscert and --tlskey")


async def test_no_jetstream(shell: Shell) -> None:
    async with NatsServer(jetstream=False) as server:
        is_broken(await shell.run("doctor", "-s", server.url), "JetStream is not enabled", "-js")


async def test_a_server_too_old(shell: Shell) -> None:
    async with NatsServer(server_binary("2.11.11")) as server:
        async with natsdisc.connect(server.url, lease_ttl=None) as discovery:
            await discovery.register(spec())
        outcome = await shell.run("doctor", "-s", server.url)
        is_broken(outcome, "2.11.11", "too old for leases", "2.12")
        [trip] = [line for line in lines_of(outcome)["ok"] if line.startswith("round trip")]
        assert "a mark is written" in trip


async def test_wrong_credentials(shell: Shell) -> None:
    async with NatsServer(config="authorization { user: u, password: p }") as server:
        outcome = await shell.run("doctor", "-s", server.url, "--user", "u", "--password", "wrong")
        is_broken(outcome, "refused the credentials", "--user")


async def test_a_bucket_that_is_not_ours(
    shell: Shell, registry: list[str], nats_url: str, prefix: str
) -> None:
    client = await nats.connect(nats_url)
    await client.jetstream().add_stream(name=f"KV_{prefix}_v1_instances", subjects=[f"{prefix}.>"])
    await client.close()
    is_broken(await shell.run("doctor", *registry), "v1_instances", "is not a KV bucket", "--bucket-prefix")


async def test_a_bucket_with_history(shell: Shell, registry: list[str], nats_url: str, prefix: str) -> None:
    client = await nats.connect(nats_url)
    await client.jetstream().create_key_value(bucket=f"{prefix}_v1_instances", history=5)
    await client.close()
    is_broken(await shell.run("doctor", *registry), "v1_instances", "history to 1")


async def test_replicas_that_there_are_no_servers_for(shell: Shell, registry: list[str]) -> None:
    outcome = await shell.run("doctor", "--create", "--replicas", "3", *registry)
    is_broken(outcome, "could not be made", "three servers")


async def test_replicas_without_quorum(shell: Shell) -> None:
    async with Cluster() as cluster:
        url = cluster.urls[0]
        make = ["doctor", "--create", "--replicas", "3", "--role", "reader", "-s", url]
        assert (await shell.run(*make)).code == 0
        whole = json.loads((await shell.run("status", "--json", "-s", url)).out)
        bucket = whole["buckets"]["v1_instances"]
        assert {bucket["leader"], *bucket["peers"]} == set(cluster.names)
        leader = await cluster.leader("KV_v1_instances")
        away = next(node for node in cluster.nodes[1:] if node is not leader)
        name = cluster.names[cluster.nodes.index(away)]
        await asyncio.to_thread(away.kill)

        async def degraded() -> bool:
            shown = (await shell.run("status", "-s", url)).out
            return f"{name} is away or behind" in shown and f"degraded    replica {name} is away" in shown

        await eventually(degraded, PATIENCE)
        for node in cluster.nodes[1:]:
            if node.running:
                await asyncio.to_thread(node.kill)
        outcome = await shell.run("doctor", "-s", url)
        is_broken(outcome, "quorum", "start the")
        for node in cluster.nodes[1:]:
            await asyncio.to_thread(node.restart)


REGISTRAR = permissions(Role.REGISTRAR, namespace="shop")
OPERATOR = permissions(Role.OPERATOR)
USERS = [
    *((f"p{number}", "publish", subject) for number, subject in enumerate(REGISTRAR.publish)),
    *((f"s{number}", "subscribe", subject) for number, subject in enumerate(REGISTRAR.subscribe)),
]
OPERATORS = [
    (f"o{number}", subject)
    for number, subject in enumerate(OPERATOR.publish)
    if subject not in permissions(Role.REGISTRAR).publish
]


def without(allowed: Permissions, lacking: str) -> Permissions:
    return Permissions(
        tuple(subject for subject in allowed.publish if subject != lacking),
        tuple(subject for subject in allowed.subscribe if subject != lacking),
    )


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    """A user for each permission that a registrar or an operator may lack, and some that lack nothing."""
    users = ["{ user: admin, password: pw }"]
    roles = {
        "reader": permissions(Role.READER, namespace="shop"),
        "registrar": REGISTRAR,
        "operator": OPERATOR,
        **{name: without(OPERATOR, lacking) for name, lacking in OPERATORS},
        **{name: without(REGISTRAR, lacking) for name, _, lacking in USERS},
    }
    users += [f"{{ user: {name}, password: pw, {allowed.as_conf()} }}" for name, allowed in roles.items()]
    config = "accounts { A { jetstream: enabled, users: [\n" + "\n".join(users) + "\n] } }"
    with NatsServer(config=config) as server:
        yield server


async def diagnosed(shell: Shell, server: NatsServer, user: str, *options: str) -> Outcome:
    login = ["-s", server.url, "--user", user, "--password", "pw"]
    return await shell.run("doctor", *login, *options)


@pytest.fixture
async def made(shell: Shell, guarded: NatsServer) -> NatsServer:
    assert (await diagnosed(shell, guarded, "operator", "--create", "--role", "operator")).code == 0
    return guarded


@pytest.mark.parametrize(("user", "verb", "subject"), USERS)
async def test_each_missing_permission_is_named(
    shell: Shell, made: NatsServer, user: str, verb: str, subject: str
) -> None:
    outcome = await diagnosed(shell, made, user, "--namespace", "shop")
    is_broken(outcome, f"may not {verb} {subject}", "natsdisc acl --role", "--namespace shop")


@pytest.mark.parametrize(("user", "subject"), OPERATORS)
async def test_each_permission_that_an_operator_lacks_is_named(
    shell: Shell, made: NatsServer, user: str, subject: str
) -> None:
    outcome = await diagnosed(shell, made, user, "--role", "operator")
    is_broken(outcome, f"may not publish {subject}", "natsdisc acl --role operator")


async def test_who_may_do_what_its_role_says_is_healthy(shell: Shell, made: NatsServer) -> None:
    for options in (
        ("registrar", "--namespace", "shop"),
        ("registrar", "--namespace", "shop", "--component", "cart"),
        ("reader", "--role", "reader", "--namespace", "shop"),
        ("operator", "--role", "operator"),
    ):
        outcome = await diagnosed(shell, made, *options)
        assert outcome.code == 0, outcome
        assert "broken" not in lines_of(outcome)
    is_broken(await diagnosed(shell, made, "registrar"), "publish $KV.v1_instances.>")


async def test_the_tools_work_for_an_operator(shell: Shell, made: NatsServer) -> None:
    login = ["-s", made.url, "--user", "operator", "--password", "pw"]
    for arguments in (["status"], ["tree"], ["prune", "*"], ["top", "--once"], ["ls"]):
        outcome = await shell.run(*arguments, *login)
        assert outcome.code == 0, outcome
        assert "warning" not in outcome.err


async def test_an_inbox_prefix_is_an_option(shell: Shell) -> None:
    allowed = permissions(Role.READER, inbox_prefix="_INBOX_r")
    config = f"authorization {{ users: [ {{ user: u, password: p, {allowed.as_conf()} }} ] }}"
    async with NatsServer(config=config) as server:
        login = ["-s", server.url, "--user", "u", "--password", "p"]
        fails(await shell.run("ls", *login), 3, "inbox")
        assert (await shell.run("ls", "--json", "--inbox-prefix", "_INBOX_r", *login)).out == "[]\n"
