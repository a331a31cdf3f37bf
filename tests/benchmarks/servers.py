"""Every server that is compared, as a process of our own with a temporary directory: no daemon is used."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from natsdisc.server import NatsServer

_PATIENCE = 30.0
_JARS = Path("/usr/share/java/zookeeper.jar")
SYSTEM_USER = {"user": "sys", "password": "sys"}


class NotInstalledError(Exception):
    """The program of a server is not here."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes clients."""

    address: str
    pid: int
    version: str
    monitor: str = ""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def nats() -> Iterator[Running]:
    [port] = free_ports(1)
    # The system account can cut a connection and read counters; clients need no password.
    config = f"""http: "127.0.0.1:{port}"
accounts {{ $SYS {{ users: [ {{ user: {SYSTEM_USER["user"]}, password: {SYSTEM_USER["password"]} }} ] }} }}"""
    with NatsServer(config=config) as server:
        yield Running(server.url, server.pid, server.version, f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def etcd() -> Iterator[Running]:
    program = _program("etcd", "/usr/bin/etcd", package="etcd-server")
    client, peer = free_ports(2)
    with _directory() as directory:
        command = [
            program,
            f"--data-dir={directory}/data",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--log-level=error",
        ]
        with _process(command, directory, client) as pid:
            yield Running(
                f"127.0.0.1:{client}", pid, _said([program, "--version"]).removeprefix("etcd Version: ")
            )


@contextlib.contextmanager
def zookeeper() -> Iterator[Running]:
    java = _program("java", "/usr/bin/java", package="zookeeper")
    if not _JARS.exists():
        raise NotInstalledError(f"there is no {_JARS} (Debian: zookeeper)")
    [port] = free_ports(1)
    with _directory() as directory:
        config = directory / "zoo.cfg"
        config.write_text(
            f"dataDir={directory}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=1000\n"
            "maxClientCnxns=0\nadmin.enableServer=false\n"
        )
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        # The default limit of 1 MB is for an answer: the names of 5,000 children fit.
        command = [java, "-Xmx1g", "-cp", f"{_JARS}:/usr/share/java/slf4j-nop.jar", main, str(config)]
        with _process(command, directory, port) as pid:
            yield Running(f"127.0.0.1:{port}", pid, _jar_version())


@contextlib.contextmanager
def redis() -> Iterator[Running]:
    program = _program("redis-server", "/usr/bin/redis-server", package="redis-server")
    [port] = free_ports(1)
    with _directory() as directory:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        with _process(command, directory, port) as pid:
            version = _said([program, "--version"]).partition("v=")[2].partition(" ")[0]
            yield Running(f"127.0.0.1:{port}", pid, version)


STARTERS = {"nats": nats, "etcd": etcd, "zookeeper": zookeeper, "redis": redis}


def _program(name: str, usual: str, *, package: str) -> str:
    found = shutil.which(name) or (usual if os.access(usual, os.X_OK) else None)
    if found is None:
        raise NotInstalledError(f"there is no {name} (Debian: {package})")
    return found


def _jar_version() -> str:
    others = sorted(path.stem for path in _JARS.parent.glob("zookeeper-jute-*.jar"))
    return others[-1].rpartition("-")[2] if others else "of unknown version"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.partition("\n")[0].strip()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="natsdisc-benchmark-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _process(command: list[str], directory: Path, port: int) -> Iterator[int]:
    """Run a server until the block ends; raises NotInstalledError, with its last words, if it will not."""
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                words = (directory / "log").read_text(errors="replace").strip().splitlines()[-1:]
                raise NotInstalledError(f"{command[0]} did not start: {' '.join(words)}")
            time.sleep(0.05)
        time.sleep(0.5)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
