"""The tools of the command line: the real command in a process of its own, against real servers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

import natsdisc
import natsdisc.acl
from natsdisc import Discovery, EndpointSpec, ModelSpec, Transport, endpoints
from natsdisc.acl import Permissions, Role, permissions
from natsdisc.entry import BUCKETS
from natsdisc.server import NatsServer
from tests.rig import Cluster, eventually, server_binary
from tests.server.shell import COMMAND, PATIENCE, Outcome, Shell, ended, fails, line_of, on_terminal

# An hour ahead of everybody else.
AN_HOUR_AHEAD = (
    "import time; now = time.time; time.time = lambda: now() + 3600\nfrom natsdisc.cli import main; main()"
)


def spec(endpoint: str = "checkout", namespace: str = "shop", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


# Bad command lines.

REGISTER = ["register", "shop", "cart", "pay", "-t", "tcp=h:1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unregister"], ["PATH"]),
        (["unregister", "shop/cart"], ["NS/COMPONENT/ENDPOINT/ID"]),
        (["unregister", "shop//checkout/1f"], ["NS/COMPONENT/ENDPOINT/ID"]),
        (["unregister", "shop", "cart", "--id", "1"], ["NS COMPONENT ENDPOINT"]),
        (["unregister", "shop", "cart", "", "--id", "1"], ["endpoint must not be empty"]),
        (["unregister", "shop", "cart", "pay", "--id", "xyz"], ["hexadecimal"]),
        (["unregister", "a/b/c/1", "--suffix", "s"], ["--suffix"]),
        (["drain"], ["PATH"]),
        (["drain", "x"], ["NS/COMPONENT/ENDPOINT/ID"]),
        (["tree", ""], ["namespace must not be empty"]),
        (["tree", "a", "b", "c"], ["unexpected extra argument"]),
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
        (["acl"], ["--role", "reader, registrar, operator", "natsdisc acl --help"]),
        (["acl", "--role", "reader", "--component", "cart"], ["--namespace"]),
        (["acl", "--role", "operator", "--namespace", "shop"], ["not confined"]),
        (["acl", "--role", "reader", "--create"], ["--create"]),
        (["acl", "--role", "reader", "--namespace", ""], ["must not be empty"]),
        (["acl", "--role", "reader", "--inbox-prefix", "a.>"], ["wildcards"]),
        (["acl", "--role", "reader", "--bucket-prefix", "a.b"], ["a.b"]),
        ([*REGISTER, "--"], ["no command"]),
        ([*REGISTER, "--", "no-such-program-anywhere"], ["no-such-program-anywhere"]),
        ([*REGISTER, "sleep", "60"], ["unexpected extra argument"]),
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


# register -- COMMAND

CERTIFICATES = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"
SLEEP = ["--", "sleep", "600"]
SEVERAL_LOOKS = 1.0  # it looks five times a second whether its shell is there


async def registered(process: Process) -> str:
    """The path of what `register -- COMMAND` holds."""
    return await line_of(process.stderr)


def program_of(process: Process) -> int:
    """The process that it runs."""
    [pid] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(pid)


def parent_of(pid: int) -> int:
    """Another one when the parent has ended."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_program_that_ends_takes_its_endpoint_along(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    process = await shell.start(*REGISTER, "--ttl", "none", *registry, *SLEEP)
    path = await registered(process)
    [instance] = await discovery.list(endpoints("shop"))
    assert str(instance.id) == path
    os.kill(program_of(process), signal.SIGKILL)
    assert await ended(process) == Outcome(128 + signal.SIGKILL, "", "")
    # It had no lease: nothing but unregistering can have taken it away.
    assert await discovery.list(endpoints("shop")) == []


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
async def test_the_programs_exit_code_and_output_are_ours(
    shell: Shell, registry: list[str], discovery: Discovery, script: str, code: int
) -> None:
    outcome = await shell.run(*REGISTER, *registry, "--", "sh", "-c", f"echo hello; {script}")
    assert (outcome.code, outcome.out) == (code, "hello\n")
    assert await discovery.list(endpoints("shop")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_passed_on(
    shell: Shell, registry: list[str], discovery: Discovery, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo stopped; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    process = await shell.start(*REGISTER, *registry, "--", "sh", "-c", script)
    await registered(process)
    assert await line_of(process.stdout) == "ready"
    process.send_signal(number)
    assert await ended(process) == Outcome(5, "stopped\n", "")
    assert await discovery.list(endpoints("shop")) == []


async def test_a_killed_command_leaves_its_endpoint_to_the_lease(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    process = await shell.start(*REGISTER, "--ttl", "2", *registry, *SLEEP)
    await registered(process)
    program = program_of(process)
    async with discovery.list_and_watch(endpoints("shop")) as events, asyncio.timeout(PATIENCE):
        added = await anext(events)
        assert isinstance(added, natsdisc.Added)
        process.kill()
        assert await anext(events) == natsdisc.Removed(added.instance.id, natsdisc.RemovalReason.EXPIRED)
    os.kill(program, signal.SIGKILL)  # it has outlived the command


async def test_a_killed_shell_takes_its_endpoint_along(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    line = [*COMMAND, *REGISTER, "--ttl", "none", "--drain", "0", *registry, *SLEEP]
    script = await shell.start('"$@"; echo over', "sh", *line, command=["sh", "-c"])
    await registered(script)
    assert len(await discovery.list(endpoints("shop"))) == 1
    script.kill()

    async def gone() -> bool:
        return await discovery.list(endpoints("shop")) == []

    await eventually(gone, PATIENCE)
    await ended(script)  # its output is closed: nothing of it runs any more


async def test_under_nohup_the_end_of_the_shell_is_not_the_end(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    line = [*COMMAND, *REGISTER, "--drain", "0", *registry, *SLEEP]
    script = await shell.start('trap "" HUP; "$@"; echo over', "sh", *line, command=["sh", "-c"])
    path = await registered(script)
    registering = program_of(script)
    script.kill()
    await eventually(lambda: parent_of(registering) != script.pid, PATIENCE)
    await asyncio.sleep(SEVERAL_LOOKS)
    [instance] = await discovery.list(endpoints("shop"))
    assert str(instance.id) == path
    os.kill(registering, signal.SIGTERM)
    await ended(script)
    assert await discovery.list(endpoints("shop")) == []


async def test_a_program_does_not_run_where_it_cannot_be_registered(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec("pay"))
    outcome = await shell.run(*REGISTER, "--id", "1f", *registry, *SLEEP)
    fails(outcome, 1, "shop/cart/pay/1f", "already registered")


@pytest.mark.parametrize("command", [[], SLEEP])
async def test_draining_when_stopped(
    shell: Shell, registry: list[str], discovery: Discovery, command: list[str]
) -> None:
    """Marked, still there, and gone at once when a second signal comes."""
    process = await shell.start(*REGISTER, "--drain", "600", *registry, *command)
    await line_of(process.stderr if command else process.stdout)
    async with discovery.list_and_watch(endpoints("shop")) as events, asyncio.timeout(PATIENCE):
        assert isinstance(await anext(events), natsdisc.Added)
        process.terminate()
        marked = await anext(events)
        assert isinstance(marked, natsdisc.Added)
        assert isinstance(marked.instance, natsdisc.EndpointInstance)
        assert marked.instance.status is natsdisc.Status.DRAINING
        assert process.returncode is None
        process.terminate()
        removed = await anext(events)
        assert removed == natsdisc.Removed(marked.instance.id, natsdisc.RemovalReason.UNREGISTERED)
    assert (await ended(process)).code == (143 if command else 0)


async def test_it_drains_unless_told_otherwise(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    process = await shell.start(*REGISTER, *registry)
    await line_of(process.stdout)
    async with discovery.list_and_watch(endpoints("shop")) as events, asyncio.timeout(PATIENCE):
        assert isinstance(await anext(events), natsdisc.Added)
        process.terminate()
        marked = await anext(events)
        assert isinstance(marked, natsdisc.Added)
        assert isinstance(marked.instance, natsdisc.EndpointInstance)
        assert marked.instance.status is natsdisc.Status.DRAINING
        assert await anext(events) == natsdisc.Removed(
            marked.instance.id, natsdisc.RemovalReason.UNREGISTERED
        )
    assert await ended(process) == Outcome(0, "", "")


async def test_it_says_on_a_terminal_that_it_drains(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    async with on_terminal(shell, *REGISTER, "--drain", "600", *registry) as terminal:
        await eventually(lambda: terminal.shows("shop/cart/pay/"), PATIENCE)
        terminal.type(b"\x03")
        await eventually(lambda: terminal.shows("draining for 600 s; Ctrl-C again"), PATIENCE)
        terminal.type(b"\x03")
        await terminal.end()
    assert terminal.code == 0
    assert await discovery.list(endpoints("shop")) == []


# unregister, drain, tree


async def test_unregister_by_path(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec(), lease_ttl=None)
    slashes = await discovery.register(EndpointSpec("a/b", "c/d", "e", transport=Transport.tcp("h:1")))
    keep = await discovery.register(spec("keep"))
    fails(await shell.run("unregister", "shop/cart/none/1f", *registry), 1, "shop/cart/none/1f")
    outcome = await shell.run("unregister", "shop/cart/checkout/1f", str(slashes.id), *registry)
    assert outcome == Outcome(0, "unregistered  shop/cart/checkout/1f\nunregistered  a/b/c/d/e/1f\n", "")
    assert keep in await discovery.list(endpoints())


async def test_unregister_takes_all_or_nothing(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(), lease_ttl=None)
    fails(await shell.run("unregister", str(mine.id), "shop/cart/none/1", *registry), 1, "none")
    assert await discovery.list(endpoints()) == [mine]


async def test_a_path_that_means_two_things(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    for namespace, component in (("a/b", "c"), ("a", "b/c")):
        await discovery.register(EndpointSpec(namespace, component, "e", transport=Transport.tcp("h:1")))
    fails(await shell.run("unregister", "a/b/c/e/1f", *registry), 1, "'a' 'b/c' 'e'", "--id HEX")
    assert len(await discovery.list(endpoints())) == 2
    assert (await shell.run("drain", "a", "b/c", "e", "--id", "1f", *registry)).code == 0
    [marked] = await discovery.list(endpoints("a"))
    assert marked.status is natsdisc.Status.DRAINING
    assert (await shell.run("unregister", "a/b", "c", "e", "--id", "1f", *registry)).code == 0


async def test_unregister_a_model(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    card = ModelSpec("dyn", "backend", "generate", card={}, model_suffix="lora/1")
    await discovery.register(card, lease_ttl=None)
    path = "dyn/backend/generate/1f/lora/1"
    fails(await shell.run("unregister", path, *registry), 1, "no endpoint")
    exact = ["unregister", "dyn", "backend", "generate", "--models", "--id", "1f"]
    fails(await shell.run(*exact, *registry), 1, "no model")
    assert (await shell.run(*exact, "--suffix", "lora/1", *registry)).code == 0
    await discovery.register(card, lease_ttl=None)
    assert (await shell.run("unregister", "--models", path, *registry)).code == 0
    assert await discovery.list(natsdisc.models()) == []


async def test_drain_marks_what_another_process_holds(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(weight=3))
    async with discovery.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
        assert await anext(events) == natsdisc.Added(mine)
        outcome = await shell.run("drain", str(mine.id), *registry)
        assert outcome == Outcome(0, "draining  shop/cart/checkout/1f\n", "")
        marked = await anext(events)
    assert isinstance(marked, natsdisc.Added)
    assert isinstance(marked.instance, natsdisc.EndpointInstance)
    assert marked.instance == dataclasses.replace(mine, status=natsdisc.Status.DRAINING)


async def test_what_is_taken_out_or_marked_as_json(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    mine = await discovery.register(spec(), lease_ttl=None)
    [marked] = json.loads((await shell.run("drain", str(mine.id), "--json", *registry)).out)
    assert marked == {**json.loads(natsdisc.wire.dumps(mine)), "status": "draining"}
    taken = await shell.run("unregister", str(mine.id), "--json", *registry)
    assert json.loads(taken.out) == [marked]
    assert await discovery.list(endpoints()) == []


async def test_tree(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec())
    await discovery.drain(await discovery.register(spec("pay")))
    await discovery.register(EndpointSpec("other", "c", "e", transport=Transport.tcp("h:1")))
    card = {"display_name": "Qwen"}
    await discovery.register(ModelSpec("shop", "cart", "checkout", card=card, model_suffix="lora"))
    assert (await shell.run("tree", *registry)).out.splitlines() == [
        "other",
        "  c",
        "    e",
        "      1f  tcp h:1",
        "shop",
        "  cart",
        "    checkout",
        "      1f  nats_tcp shop.cart",
        "      1f/lora  model Qwen",
        "    pay",
        "      1f  nats_tcp shop.cart  draining",
    ]
    assert json.loads((await shell.run("tree", "shop", "--json", *registry)).out) == {
        "shop": {
            "cart": {
                "checkout": ["shop/cart/checkout/1f", "shop/cart/checkout/1f/lora"],
                "pay": ["shop/cart/pay/1f"],
            }
        }
    }
    empty = await shell.run("tree", "nowhere", *registry)
    assert (empty.code, empty.out) == (0, "")


# status, prune, top


async def test_status_json(shell: Shell, registry: list[str], discovery: Discovery, prefix: str) -> None:
    await discovery.register(spec())
    await discovery.register(spec("pay"), lease_ttl=None)
    gone = await discovery.register(spec("gone"))
    await discovery.unregister(gone)
    shown = json.loads((await shell.run("status", "--json", *registry)).out)
    assert shown["natsdisc"] == natsdisc.__version__
    assert shown["server"].keys() == {"name", "version", "url", "cluster", "jetstream"}
    assert shown["server"]["jetstream"] is True
    assert shown["buckets"]["v1_mdc"] is None
    bucket = shown["buckets"]["v1_instances"]
    expected = {"entries": 2, "leases": 1, "without_lease": 1, "tombstones": 1, "degraded": []}
    assert {name: bucket[name] for name in expected} == expected
    assert bucket["bucket"] == f"{prefix}_v1_instances"
    assert (bucket["replicas"], bucket["storage"], bucket["fault"]) == (1, "memory", None)
    assert bucket["written"] >= bucket["messages"] == 4  # two entries, a lease, the mark of a removal


async def test_status_for_people(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec("pay"), lease_ttl=None)
    outcome = await shell.run("status", *registry)
    assert (outcome.code, outcome.err) == (0, "")
    assert "  entries     1, 1 of them without a lease\n" in outcome.out
    assert f"natsdisc {natsdisc.__version__}\n" in outcome.out
    assert "v1_mdc  is not there yet" in outcome.out
    assert "\x1b" not in outcome.out


async def test_prune_shows_first_and_removes_then(
    shell: Shell, registry: list[str], discovery: Discovery, nats_url: str, prefix: str
) -> None:
    leased = await discovery.register(spec())
    bare = await discovery.register(spec("pay"), lease_ttl=None)
    other = await discovery.register(spec("pay", namespace="other"), lease_ttl=None)
    client = await nats.connect(nats_url)
    await client.jetstream().publish(f"$KV.{prefix}_v1_instances.rubbish", b"x")
    await client.close()

    dry = await shell.run("prune", "shop/*", *registry)
    assert dry.code == 0
    assert [line.split()[:5] for line in dry.out.splitlines()] == [
        ["would", "be", "removed", "endpoint", "shop/cart/pay/1f"]
    ]
    assert "--yes" in dry.err
    assert await discovery.list(endpoints()) == [other, leased, bare]

    young = await shell.run("prune", "--older-than", "1h", "--yes", "--json", *registry)
    assert json.loads(young.out) == []

    wet = await shell.run("prune", "shop/*", "--yes", "--json", *registry)
    [removed] = json.loads(wet.out)
    assert (removed["path"], removed["kind"], removed["removed"]) == ("shop/cart/pay/1f", "endpoint", True)
    assert await discovery.list(endpoints()) == [other, leased]

    everything = json.loads((await shell.run("prune", "*", "--yes", "--json", *registry)).out)
    assert [one["path"] for one in everything] == ["other/cart/pay/1f", "rubbish"]
    assert await discovery.list(endpoints()) == [leased]


async def test_top_prints_one_picture(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    await discovery.register(spec())
    await discovery.drain(await discovery.register(spec("pay")))
    await discovery.register(spec(namespace="other"))
    for arguments in (["top", "--once"], ["top"]):
        lines = (await shell.run(*arguments, *registry)).out.splitlines()
        assert [line.split() for line in lines] == [
            ["endpoints", "3", "instances"],
            ["NAMESPACE", "COMPONENT", "INSTANCES", "DRAINING"],
            ["shop", "cart", "2", "1"],
            ["other", "cart", "1", "0"],
        ]
    shown = json.loads((await shell.run("top", "shop", "--json", *registry)).out)
    cart = {"namespace": "shop", "component": "cart", "instances": 2, "draining": 1}
    assert shown == {"query": "endpoints/shop", "instances": 2, "components": [cart]}


async def test_top_shows_changes_and_a_lost_connection(shell: Shell) -> None:
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, instance_id=1) as discovery,
        on_terminal(shell, "top", "-s", server.url, columns=120) as screen,
    ):
        await eventually(lambda: screen.shows("0 instances"), PATIENCE)
        mine = await discovery.register(spec())
        await eventually(lambda: screen.shows("shop/cart/checkout/1"), PATIENCE)
        await discovery.unregister(mine)
        await eventually(lambda: screen.shows("unregistered"), PATIENCE)
        await eventually(
            lambda: screen.shows("2 came or went in the last minute, 0 expired, 2 events"), PATIENCE
        )
        await asyncio.to_thread(server.kill)
        await eventually(lambda: screen.shows("NOT CONNECTED"), PATIENCE)
        await asyncio.to_thread(server.restart)
        await discovery.register(spec("back"))
        await eventually(lambda: screen.shows("shop/cart/back/1"), PATIENCE)
        screen.process.send_signal(signal.SIGINT)
        await screen.end()
    assert screen.code == 0
    assert "\x1b[?1049l" in screen.raw
    assert not screen.shows("Traceback")


# doctor


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


async def test_a_healthy_registry(shell: Shell, registry: list[str]) -> None:
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
        "bucket v1_instances R1 on memory, 0 messages, 0 bytes",
        "bucket v1_mdc",
        "bucket v1_event_channels",
        "bucket v1_event_sources",
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
        assert "without a lease" in trip


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


# acl


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
