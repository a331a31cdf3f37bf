"""The command line: the real command in a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import AlreadyRegisteredError, Discovery, EndpointSpec, ModelSpec, Transport, endpoints, wire
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.shell import (
    COMMAND,
    PATIENCE,
    Outcome,
    Shell,
    ended,
    fails,
    line_of,
    line_with,
    on_terminal,
)

COMPLETED = "import sys; sys.argv[0] = 'natsdisc'; from natsdisc.cli import main; main()"
ACCOUNT = 'authorization { users: [ { user: ann, password: "se cret" } ] }'


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    """A server that wants to know who comes."""
    with NatsServer(config=ACCOUNT) as server:
        yield server


def spec(endpoint: str = "checkout", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


async def test_a_group_without_a_command_shows_its_help(shell: Shell) -> None:
    outcome = await shell.run("export")
    assert outcome.code == 2
    assert outcome.err.startswith("Usage: natsdisc export [OPTIONS] COMMAND")
    assert "  prometheus  " in outcome.err


async def test_without_a_command_there_is_help(shell: Shell) -> None:
    outcome = await shell.run()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: natsdisc ")


async def test_completion(shell: Shell) -> None:
    shell.environment["_NATSDISC_COMPLETE"] = "bash_complete"
    for line, at, words in (
        ("natsdisc re", 1, {"register"}),
        ("natsdisc doctor --role re", 3, {"reader", "registrar"}),
        ("natsdisc ls --mo", 2, {"--models"}),
    ):
        shell.environment |= {"COMP_WORDS": line, "COMP_CWORD": str(at)}
        outcome = await shell.run("-c", COMPLETED, command=[sys.executable])
        assert outcome.code == 0, outcome
        assert set(outcome.out.replace("plain,", "").split()) == words


async def test_what_takes_long_is_told_on_a_terminal(shell: Shell) -> None:
    """A server that accepts, and says nothing."""
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []
    url = f"nats://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    try:
        async with on_terminal(shell, "ls", "shop", "-s", url) as terminal:
            await terminal.end()
        assert terminal.code == 3
        assert "natsdisc: listing endpoints/shop" in terminal.text
        assert terminal.raw.rpartition("  \r")[2].startswith("natsdisc: error: cannot connect")
        fails(await shell.run("ls", "shop", "-s", url), 3, "cannot connect")
    finally:
        for writer in writers:
            writer.close()
        silent.close()
        await silent.wait_closed()


async def test_help_tells_the_exit_codes_and_hides_the_worker(shell: Shell) -> None:
    outcome = await shell.run("--help")
    assert outcome.code == 0
    assert "Exit codes" in outcome.out
    assert "demo-worker" not in outcome.out
    assert (await shell.run("--version")).out == f"natsdisc {natsdisc.__version__}\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
async def test_without_the_extra_the_command_says_what_to_install(shell: Shell, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import natsdisc.cli; natsdisc.cli.main()"
    outcome = await shell.run("-c", code, command=[sys.executable])
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "pip install 'natsdisc[cli]'" in outcome.err


async def test_the_library_imports_neither_click_nor_rich(shell: Shell) -> None:
    code = "import sys, natsdisc, natsdisc.cli; print(sorted({'click', 'rich'} & set(sys.modules)))"
    assert (await shell.run("-c", code, command=[sys.executable])).out == "[]\n"


async def test_ls_of_an_empty_registry(shell: Shell, registry: list[str]) -> None:
    plain = await shell.run("ls", *registry)
    assert (plain.code, plain.out) == (0, "")
    assert "no endpoints" in plain.err
    assert await shell.run("ls", "--models", "--json", *registry) == Outcome(0, "[]\n", "")


async def test_ls_aligns_its_columns_on_a_pipe(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec())
    await discovery.register(spec("pay", zone="b\x1b[2J"))
    outcome = await shell.run("ls", *registry)
    assert outcome.code == 0
    assert outcome.err == ""
    head, *rows = outcome.out.splitlines()
    assert head.split() == ["INSTANCE", "TRANSPORT", "ADDRESS", "METADATA"]
    assert [row.split()[:3] for row in rows] == [
        ["shop/cart/checkout/1f", "nats_tcp", "shop.cart"],
        ["shop/cart/pay/1f", "nats_tcp", "shop.cart"],
    ]
    assert {row.index("nats_tcp") for row in rows} == {head.index("TRANSPORT")}
    assert "\x1b" not in outcome.out


async def test_ls_json_is_what_is_on_the_wire(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    instance = await discovery.register(spec(weight=3))
    await discovery.register(EndpointSpec("other", "c", "e", transport=Transport.tcp("h:1")))
    outcome = await shell.run("ls", "shop", "cart", "checkout", "--json", *registry)
    # The place is a text: JavaScript loses digits of the number.
    listed = {"id": "shop/cart/checkout/1f", **json.loads(wire.dumps(instance))}
    assert json.loads(outcome.out) == [listed]
    assert (await shell.run("ls", "shop/cart/checkout/1F", "--json", *registry)).out == outcome.out
    assert (await shell.run("ls", "shop/cart/checkout/2", "--json", *registry)).out == "[]\n"
    everything = json.loads((await shell.run("ls", "--json", *registry)).out)
    assert [one["namespace"] for one in everything] == ["other", "shop"]


async def test_ls_models(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    card = {"display_name": "Qwen/Qwen3-0.6B", "context_length": 40960}
    await discovery.register(ModelSpec("dyn", "backend", "generate", card=card, model_suffix="lora"))
    outcome = await shell.run("ls", "--models", "dyn", *registry)
    row = outcome.out.splitlines()[1].split()
    assert row[:2] == ["dyn/backend/generate/1f/lora", "Qwen/Qwen3-0.6B"]
    [found] = json.loads((await shell.run("ls", "--models", "--json", *registry)).out)
    assert found["card_json"] == card


async def test_ls_draws_a_table_on_a_terminal(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec())
    async with on_terminal(shell, "ls", *registry) as terminal:
        await terminal.end()
    assert terminal.code == 0
    assert "───" in terminal.text
    assert "checkout" in terminal.text


async def test_watch_json_prints_one_object_a_line(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    first = await discovery.register(spec())
    process = await shell.start("watch", "shop", "--json", *registry)
    assert json.loads(await line_of(process.stdout)) == {
        "event": "added",
        "id": "shop/cart/checkout/1f",
        "instance": {"id": "shop/cart/checkout/1f", **json.loads(wire.dumps(first))},
    }
    await discovery.unregister(first)
    removed = {"event": "removed", "id": "shop/cart/checkout/1f", "reason": "unregistered"}
    assert json.loads(await line_of(process.stdout)) == removed
    process.send_signal(signal.SIGINT)
    assert await ended(process) == Outcome(0, "", "")


async def test_watch_tells_a_change_from_an_arrival(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    process = await shell.start("watch", *registry)
    instance = await discovery.register(spec())
    assert "added    shop/cart/checkout/1f  nats_tcp shop.cart" in await line_of(process.stdout)
    await discovery.update(instance, transport=Transport.http("http://h"))
    assert "changed  shop/cart/checkout/1f  http http://h" in await line_of(process.stdout)
    await discovery.unregister(instance)
    assert "removed  shop/cart/checkout/1f  unregistered" in await line_of(process.stdout)
    process.terminate()
    assert await ended(process) == Outcome(0, "", "")


async def test_watch_says_what_is_draining(shell: Shell, registry: list[str], discovery: Discovery) -> None:
    process = await shell.start("watch", *registry)
    instance = await discovery.register(spec())
    await line_of(process.stdout)
    await discovery.drain(instance)
    assert "changed  shop/cart/checkout/1f  nats_tcp shop.cart  draining" in await line_of(process.stdout)
    process.terminate()
    assert (await ended(process)).code == 0


async def test_watch_shows_a_lost_connection_and_goes_on(shell: Shell) -> None:
    async with NatsServer() as server, natsdisc.connect(server.url, instance_id=1) as discovery:
        await discovery.register(spec(), lease_ttl=None)
        process = await shell.start("watch", "-s", server.url)
        assert "shop/cart/checkout/1 " in await line_of(process.stdout)
        await asyncio.to_thread(server.kill)
        await line_with(process.stderr, "natsdisc: warning: lost the connection to NATS")
        await asyncio.to_thread(server.restart)
        await line_with(process.stderr, "natsdisc: endpoints is in sync again")
        await discovery.register(spec("back"), lease_ttl=None)
        assert "added    shop/cart/back/1" in await line_of(process.stdout)
        process.terminate()
        assert await ended(process) == Outcome(0, "", "")


async def test_watch_ends_quietly_with_its_reader(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec())
    command = shlex.join([*COMMAND, "watch", "--json", *registry])
    outcome = await shell.run(f"{{ {command}; echo $? >&2; }} | head -n 1", command=["sh", "-c"])
    assert json.loads(outcome.out)["event"] == "added"
    assert outcome.err == "0\n"


async def test_a_reader_that_leaves_before_the_first_line(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec())
    for arguments in (["watch"], ["ls"], ["ls", "--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = await shell.start(*arguments, *registry, stdout=writing)
        os.close(writing)
        assert await ended(process) == Outcome(0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_register_unregisters_at_once_when_it_is_stopped(
    shell: Shell, registry: list[str], discovery: Discovery, number: int
) -> None:
    arguments = ["shop", "cart", "pay", "--transport", "nats=shop.pay", "--id", "2A", "--ttl", "none"]
    arguments += ["--metadata", "weight:=3", "-m", "zone=b", "--drain", "0"]
    process = await shell.start("register", *arguments, *registry)
    assert await line_of(process.stdout) == "shop/cart/pay/2a"
    [instance] = await discovery.list(endpoints("shop"))
    assert json.loads(wire.dumps(instance)) == {
        "type": "Endpoint",
        "namespace": "shop",
        "component": "cart",
        "endpoint": "pay",
        "instance_id": 0x2A,
        "transport": {"nats_tcp": "shop.pay"},
        "metadata": {"weight": 3, "zone": "b"},
    }
    process.send_signal(number)
    assert await ended(process) == Outcome(0, "", "")
    # It had no lease: nothing but unregistering can have taken it away.
    assert await discovery.list(endpoints("shop")) == []


async def test_register_prints_json_for_programs(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    process = await shell.start("register", "shop", "cart", "pay", "-t", "tcp=h:1", "--json", *registry)
    printed = json.loads(await line_of(process.stdout))
    [instance] = await discovery.list(endpoints())
    assert printed.pop("id") == str(instance.id)
    assert printed == json.loads(wire.dumps(instance))
    process.terminate()
    assert await ended(process) == Outcome(0, "", "")


async def test_register_under_a_taken_id_fails(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    await discovery.register(spec())
    arguments = ["shop", "cart", "checkout", "--transport", "tcp=h:1", "--id", "1f"]
    fails(
        await shell.run("register", *arguments, *registry), 1, "shop/cart/checkout/1f", "already registered"
    )


async def test_register_ends_when_another_owner_takes_its_id(
    shell: Shell, registry: list[str], discovery: Discovery
) -> None:
    arguments = ["shop", "cart", "checkout", "--transport", "tcp=h:1", "--id", "1f", "--ttl", "2"]
    process = await shell.start("register", *arguments, *registry)
    await line_of(process.stdout)
    [theirs] = await discovery.list(endpoints("shop"))

    async def taken() -> bool:
        with contextlib.suppress(AlreadyRegisteredError):  # the owner was back in between
            await discovery.unregister(theirs)
            await discovery.register(spec())
            return True
        return False

    await eventually(taken, PATIENCE)
    outcome = await ended(process)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("natsdisc: error: shop/cart/checkout/1f was taken")


REGISTER = ["register", "shop", "cart", "pay"]
TRANSPORT = ["--transport", "tcp=h:1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lss"], ["No such command", "Did you mean 'ls'?", "natsdisc --help"]),
        (["--colour"], ["No such option", "natsdisc --help"]),
        (["ls", ""], ["namespace must not be empty"]),
        (["watch", "shop", ""], ["component must not be empty"]),
        (["register", "shop", "", "pay", *TRANSPORT], ["component must not be empty"]),
        (["ls", "a", "b", "c", "d", "e"], ["5 parts"]),
        (["ls", "a", "b", "c", "pay"], ["not an instance id"]),
        (["ls", "50%"], ["%25"]),
        (REGISTER, ["--transport", "natsdisc register --help"]),
        ([*REGISTER, "--transport", "shop.pay"], ["KIND=ADDRESS"]),
        ([*REGISTER, "--transport", "=x"], ["KIND=ADDRESS"]),
        ([*REGISTER, *TRANSPORT, "--metadata", "weight"], ["KEY=TEXT", "KEY:=JSON"]),
        ([*REGISTER, *TRANSPORT, "--metadata", "weight=3"], ["weight:=3"]),
        ([*REGISTER, *TRANSPORT, "--metadata", "zone:=b"], ["is not JSON", "zone=b"]),
        ([*REGISTER, *TRANSPORT, "--metadata", "n:=NaN"], ["is not JSON"]),
        ([*REGISTER, *TRANSPORT, "--drain", "inf"], ["not a time"]),
        ([*REGISTER, *TRANSPORT, "--drain", "9" * 400], ["not a time"]),
        ([*REGISTER, *TRANSPORT, "--check-tcp", "nowhere"], ["HOST:PORT"]),
        ([*REGISTER, *TRANSPORT, "--check-http", "ftp://h"], ["http://"]),
        ([*REGISTER, *TRANSPORT, "--check-exec", "no-such-program"], ["no such program"]),
        ([*REGISTER, *TRANSPORT, "--check-timeout", "9s"], ["--check-interval"]),
        (["register", "shop/cart/pay/1f", *TRANSPORT, "--id", "1f"], ["--id"]),
        (["register", "shop/cart", *TRANSPORT], ["NS/COMPONENT/ENDPOINT"]),
        ([*REGISTER, *TRANSPORT, "--id", "xyz"], ["hexadecimal"]),
        ([*REGISTER, *TRANSPORT, "--id", "1" * 17], ["16 hexadecimal"]),
        ([*REGISTER, *TRANSPORT, "--ttl", "soon"], ["none"]),
        ([*REGISTER, *TRANSPORT, "--ttl", "0.1"], ["1 to 31536000 s"]),
        (["ls", "--server", " , "], ["--server"]),
        (["ls", "--server", "http://127.0.0.1:1"], ["http"]),
        (["ls", "--bucket-prefix", "a b"], ["a b"]),
        (["ls", "--context", "nowhere"], ["no context 'nowhere'"]),
        (["ls", "--context", "../x"], ["cannot be the name"]),
        (["ls", "--creds", "/nowhere"], ["/nowhere"]),
        (["ls", "--tlskey", __file__], ["--tlscert"]),
        (["ls", "--tlscert", __file__], ["TLS files"]),
        (["serve", "--port", "70000"], ["70000"]),
        (["serve", "--config", "/nowhere"], ["/nowhere"]),
    ],
)
async def test_a_bad_command_line_exits_with_2(shell: Shell, arguments: list[str], words: list[str]) -> None:
    fails(await shell.run(*arguments), 2, *words)


@pytest.mark.parametrize("arguments", [["ls"], ["watch"], [*REGISTER, *TRANSPORT]])
async def test_no_server_exits_with_3_and_shows_no_password(shell: Shell, arguments: list[str]) -> None:
    outcome = await shell.run(*arguments, "--server", "nats://ann:hidden@127.0.0.1:1")
    fails(outcome, 3, "127.0.0.1:1")
    assert "hidden" not in outcome.err


async def test_one_of_several_servers_is_enough(shell: Shell, nats_url: str, prefix: str) -> None:
    servers = f"nats://127.0.0.1:1, {nats_url}"
    assert (await shell.run("ls", "-s", servers, "--bucket-prefix", prefix)).code == 0
    shell.environment["NATS_URL"] = nats_url
    assert (await shell.run("ls", "--bucket-prefix", prefix)).code == 0


@pytest.mark.parametrize("arguments", [["ls"], ["watch"], [*REGISTER, *TRANSPORT]])
async def test_refused_credentials_exit_with_3(
    shell: Shell, guarded: NatsServer, arguments: list[str]
) -> None:
    login = ["--user", "ann", "--password", "wrong"]
    fails(await shell.run(*arguments, "-s", guarded.url, *login), 3, "refused")


async def test_forbidden_by_permissions_exits_with_3(shell: Shell) -> None:
    config = 'authorization { users: [ { user: u, password: p, permissions: { publish: "x" } } ] }'
    async with NatsServer(config=config) as server:
        for arguments in (["ls"], ["watch"], [*REGISTER, *TRANSPORT]):
            outcome = await shell.run(*arguments, "-s", server.url, "--user", "u", "--password", "p")
            fails(outcome, 3)


async def test_a_server_without_jetstream_exits_with_3(shell: Shell) -> None:
    async with NatsServer(jetstream=False) as server:
        outcome = await shell.run("ls", "-s", server.url)
        assert outcome.code == 3
        last = outcome.err.splitlines()[-1]  # lines before it say that it still tries
        assert last.startswith("natsdisc: error: ")
        assert "JetStream" in last


def write_context(shell: Shell, name: str, text: str | None = None, **fields: Any) -> None:
    folder = Path(shell.environment["XDG_CONFIG_HOME"]) / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(fields) if text is None else text)


async def test_a_context_says_where_and_who(shell: Shell, guarded: NatsServer) -> None:
    write_context(shell, "prod", description="", url=guarded.url, user="ann", password="se cret", creds="")
    assert (await shell.run("ls", "--json", "--context", "prod")).out == "[]\n"
    outcome = await shell.run("ls", "--context", "test")
    fails(outcome, 2, "no context 'test'", "there: prod")


async def test_options_win_over_the_context_and_it_over_the_environment(
    shell: Shell, guarded: NatsServer
) -> None:
    write_context(shell, "good", url=guarded.url, user="ann", password="se cret")
    write_context(shell, "stale", url="nats://127.0.0.1:1", token="stale")
    shell.environment |= {"NATS_URL": "nats://127.0.0.1:1", "NATS_TOKEN": "of another server"}
    assert (await shell.run("ls", "--json", "--context", "good")).out == "[]\n"
    login = ["--user", "ann", "--password", "se cret"]
    assert (await shell.run("ls", "--json", "--context", "stale", "-s", guarded.url, *login)).out == "[]\n"
    fails(await shell.run("ls", "--context", "good", "--token", "x"), 3, "refused")
    fails(await shell.run("ls", "--context", "good", "-s", "nats://127.0.0.1:2"), 3, "127.0.0.1:2")


async def test_a_domain_and_a_prefix_exclude_each_other(shell: Shell) -> None:
    fails(await shell.run("ls", "--domain", "hub", "--api-prefix", "x"), 2, "exclude each other")


async def test_the_environment_logs_in(shell: Shell, guarded: NatsServer) -> None:
    shell.environment |= {"NATS_URL": guarded.url, "NATS_USER": "ann", "NATS_PASSWORD": "se cret"}
    assert (await shell.run("ls", "--json")).out == "[]\n"


async def test_an_nkey_logs_in(shell: Shell, tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys")
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "seed.nk"
    file.write_bytes(seed)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    async with NatsServer(config=f"authorization {{ users: [ {{ nkey: {public} }} ] }}") as server:
        assert (await shell.run("ls", "--json", "-s", server.url, "--nkey", str(file))).out == "[]\n"
        write_context(shell, "nkey", url=server.url, nkey=str(file))
        assert (await shell.run("ls", "--json", "--context", "nkey")).out == "[]\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [("no json", "cannot be read"), ("[]", "not a JSON object"), ('{"creds": "/nowhere"}', "/nowhere")],
)
async def test_a_broken_context_exits_with_2(shell: Shell, text: str, word: str) -> None:
    write_context(shell, "broken", text)
    fails(await shell.run("ls", "--context", "broken"), 2, word)


async def test_serve_runs_a_server_until_it_is_stopped(shell: Shell, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = await shell.start("serve", "--port", "0", "--store-dir", str(store))
    url = await line_of(process.stdout)
    async with natsdisc.connect(url) as discovery:
        await discovery.register(spec(), lease_ttl=None)
    taken = await shell.run("serve", "--port", url.rpartition(":")[2])
    assert taken.code == 1
    assert taken.err.startswith("natsdisc: error: nats-server ended while starting")
    process.terminate()
    outcome = await ended(process)
    assert (outcome.code, outcome.err) == (0, "")
    assert str(store) in outcome.out
    assert any(store.iterdir())
    assert shell.survivors() == []


async def test_serve_takes_more_configuration(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "more.conf"
    config.write_text(ACCOUNT)
    process = await shell.start("serve", "--port", "0", "--config", str(config))
    url = await line_of(process.stdout)
    fails(await shell.run("ls", "-s", url), 3)
    login = ["--user", "ann", "--password", "se cret"]
    assert (await shell.run("ls", "--json", "-s", url, *login)).out == "[]\n"
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 0


async def test_demo_on_a_pipe_shows_what_it_promises(shell: Shell) -> None:
    outcome = await shell.run("demo")
    assert (outcome.code, outcome.err) == (0, "")
    assert "\x1b" not in outcome.out
    lines = outcome.out.splitlines()
    assert all(re.match(r" *\d+\.\d s  ", line) for line in lines)
    words = [line.split()[2] for line in lines]
    assert words.count("added") == 4
    assert sum(line.endswith("demo/llm/generate/b2  unregistered") for line in lines) == 1
    assert sum(line.endswith("demo/llm/generate/c3  expired") for line in lines) == 2
    assert "Qwen/Qwen3-0.6B" in outcome.out
    assert "as expected" in lines[-1]
    assert shell.survivors() == []


async def test_demo_draws_a_live_table_on_a_terminal(shell: Shell) -> None:
    async with on_terminal(shell, "demo") as terminal:
        await terminal.end()
    assert terminal.code == 0, terminal.text
    assert "───" in terminal.text
    assert "registry at" in terminal.text
    assert "as expected" in terminal.text.splitlines()[-1]
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.raw.rfind(show) > terminal.raw.rfind(hide) >= 0
    assert shell.survivors() == []


async def test_ctrl_c_ends_the_demo_cleanly(shell: Shell) -> None:
    async with on_terminal(shell, "demo") as terminal:
        await eventually(lambda: terminal.text.count("added ") >= 2, PATIENCE)
        terminal.type(b"\x03")
        await terminal.end()
    assert terminal.code == 130
    assert "Traceback" not in terminal.text
    assert "stopped" in terminal.text.splitlines()[-1]
    assert terminal.raw.rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")
    assert shell.survivors() == []


async def test_demo_keep_goes_on_until_ctrl_c(shell: Shell) -> None:
    process = await shell.start("demo", "--keep")
    url = (await line_with(process.stdout, "keep")).split()[-1]
    [left] = json.loads((await shell.run("ls", "--json", "-s", url)).out)
    assert left["instance_id"] == 0xA1
    process.send_signal(signal.SIGINT)
    outcome = await ended(process)
    assert (outcome.code, outcome.err) == (0, "")
    assert shell.survivors() == []


async def test_demo_fails_when_a_worker_ends_by_itself(shell: Shell) -> None:
    process = await shell.start("demo")
    found = re.search(r"worker a1 \(pid (\d+)\)", await line_with(process.stdout, "worker a1"))
    assert found is not None
    await line_with(process.stdout, "added")
    os.kill(int(found[1]), signal.SIGKILL)
    outcome = await ended(process)
    assert outcome.code == 1
    assert outcome.err.startswith("natsdisc: error: worker a1 ended by itself")
    assert shell.survivors() == []


async def test_nothing_outlives_a_killed_demo(shell: Shell) -> None:
    process = await shell.start("demo")
    await line_with(process.stdout, "added")
    process.kill()
    await process.wait()
    await eventually(lambda: not shell.survivors(), PATIENCE)
