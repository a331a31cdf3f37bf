"""States of a connection that last: TLS, credentials that are refused, bytes that nobody takes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from natsdisc.server import NatsServer
from tests.rig import eventually

from .proxy import Direction, Proxy

__all__ = ["Certificates", "Gate", "leave_unsent", "reload"]

_MAKE = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"
_RELOADED = "Reloaded server configuration"
# More than both ends' socket buffers take.
_UNSENT_BYTES = 16 * 1024 * 1024


async def reload(server: NatsServer, config: str) -> None:
    """Give a running server another configuration, and wait until it has taken it."""
    assert server._directory is not None
    server._config = config
    path = server._directory / "nats.conf"
    path.write_text(server._configuration(server._directory / "ports"), encoding="utf-8")
    before = server.log.count(_RELOADED)
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: server.log.count(_RELOADED) > before)


class Certificates:
    """An authority of its own and a server's certificate: `with Certificates() as certificates:`."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="natsdisc-certs-"))

    @property
    def config(self) -> str:
        """The `tls` block for a server that requires TLS."""
        return f"tls {{ {self.files} }}"

    @property
    def files(self) -> str:
        """What the `tls` block says of files."""
        return f'cert_file: "{self._directory}/server.pem", key_file: "{self._directory}/server.key"'

    @property
    def authority(self) -> Path:
        """The certificate of the authority."""
        return self._directory / "ca.pem"

    def context(self) -> ssl.SSLContext:
        """Return what a client needs to trust the server."""
        return ssl.create_default_context(cafile=self.authority)

    def __enter__(self) -> Self:
        subprocess.run(["sh", str(_MAKE), str(self._directory)], check=True, capture_output=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._directory)


class Gate:
    """A server's user, whom an operator locks out for a while and lets in again."""

    def __init__(self, more: str = "", limits: str = "") -> None:
        self._more, self._limits = more, limits

    @property
    def config(self) -> str:
        """The configuration that lets the user in."""
        return self._config("good")

    def url(self, port: int, scheme: str = "nats") -> str:
        """What the user connects to."""
        return f"{scheme}://user:good@127.0.0.1:{port}"

    def admin_url(self, port: int) -> str:
        """What somebody else of the same account connects to, who is never locked out."""
        return f"nats://admin:admin@127.0.0.1:{port}"

    async def shut(self, server: NatsServer) -> None:
        """Refuse the user, and end the user's connections."""
        await reload(server, self._config("another"))

    async def open(self, server: NatsServer) -> None:
        """Let the user in again."""
        await reload(server, self.config)

    def _config(self, password: str) -> str:
        users = f"{{ user: user, password: {password} }}, {{ user: admin, password: admin }}"
        return f"accounts {{ A {{ jetstream: enabled, {self._limits} users: [ {users} ] }} }}\n{self._more}"


async def leave_unsent(client: Any, proxy: Proxy) -> None:
    """Stall the way to the server, and fill it until bytes of `client` cannot leave this process."""
    proxy.stall(Direction.BOTH)
    transport = client._transport._io_writer.transport
    while transport.get_write_buffer_size() < _UNSENT_BYTES // 8:
        command = b"PUB nowhere 1000000\r\n" + bytes(1_000_000) + b"\r\n"
        transport.write(command)
        await asyncio.sleep(0.01)
