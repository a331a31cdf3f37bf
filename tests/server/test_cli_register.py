"""`natsdisc register`, with a program and without."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import Discovery, EndpointSpec, Transport, endpoints
from tests.rig import eventually
from tests.server.shell import COMMAND, PATIENCE, Outcome, Shell, ended, fails, line_of, on_terminal


def spec(endpoint: str = "checkout", namespace: str = "shop", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, "cart", endpoint, transport=Transport.nats("shop.cart"), metadata=metadata)


REGISTER = ["register", "shop", "cart", "pay", "-t", "nats=shop.pay"]
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


async def test_a_program_is_registered_when_it_is_ready_and_checked_then(
    shell: Shell, registry: list[str], discovery: Discovery, tmp_path: Path
) -> None:
    ready, sick = tmp_path / "ready", tmp_path / "sick"
    checks = ["--check-exec", f"sh -c 'test -e {ready} && ! test -e {sick}'", "--check-interval", "300ms"]
    command = ["register", "shop/cart/pay/1f", "-t", "tcp=127.0.0.1:1", *checks, "--check-timeout", "300ms"]
    process = await shell.start(*command, *registry, *SLEEP)

    async def status() -> str | None:
        found = await discovery.list(endpoints("shop"))
        return str(found[0].status) if found else None

    async with discovery.list_and_watch(endpoints("shop")) as events, asyncio.timeout(PATIENCE):
        await events.synced()
        assert await status() is None
        ready.touch()
        added = await anext(events)
        assert isinstance(added, natsdisc.Added)
    assert await line_of(process.stderr) == "shop/cart/pay/1f"
    sick.touch()
    await eventually(lambda: _is(status, "unhealthy"), PATIENCE)
    sick.unlink()
    await eventually(lambda: _is(status, "serving"), PATIENCE)
    process.terminate()
    assert (await ended(process)).code == 128 + signal.SIGTERM


async def test_a_program_that_never_gets_ready_is_stopped(shell: Shell, registry: list[str]) -> None:
    """The port of a tcp transport is looked at without being asked for."""
    command = ["register", "shop/cart/pay", "-t", "tcp=127.0.0.1:1", "--ready-timeout", "300ms"]
    outcome = await shell.run(*command, *registry, *SLEEP)
    fails(outcome, 1, "not ready within 0.3 s", "127.0.0.1:1 does not accept")
    assert shell.survivors() == []


async def _is(status: Callable[[], Awaitable[str | None]], wanted: str) -> bool:
    return await status() == wanted
