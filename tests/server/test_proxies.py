"""nginx and HAProxy follow the registry by `natsdisc watch --exec`: docs/integrations/proxies.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rig import eventually
from tests.server.shell import PATIENCE, Shell, line_of

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SERVICE = (
    "import http.server, sys\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        body = sys.argv[2].encode()\n"
    "        self.send_response(200)\n"
    "        self.send_header('Content-Length', str(len(body)))\n"
    "        self.end_headers()\n"
    "        self.wfile.write(body)\n"
    "    def log_message(self, *arguments): pass\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
)
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  include {folder}/servers.conf;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://checkout; }} }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend front
  bind 127.0.0.1:{port}
  default_backend checkout
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answer(port: int) -> str:
    """What the proxy's port answers, or why it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as reply:
            return str(reply.read().decode())
    except (urllib.error.URLError, OSError) as error:
        return f"failed: {error}"


@contextlib.asynccontextmanager
async def proxy(kind: str, folder: Path, port: int, shell: Shell) -> AsyncIterator[str]:
    """A proxy; yields the command for --exec."""
    servers, pid = folder / "servers.conf", folder / f"{kind}.pid"
    config = folder / "main.conf"
    if kind == "nginx":
        config.write_text(NGINX.format(folder=folder, port=port))
        servers.write_text("upstream checkout { server 127.0.0.1:1 down; }\n")
        command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
        reload = shlex.join([*command, "-s", "reload"])
        hook = f"{sys.executable} {EXAMPLES / 'nginx_upstream.py'} checkout {servers} -- {reload}"
    else:
        config.write_text(HAPROXY.format(port=port))
        servers.write_text("backend checkout\n")
        command = ["haproxy", "-W", "-f", str(config), "-f", str(servers), "-p", str(pid)]
        hook = f"{sys.executable} {EXAMPLES / 'haproxy_backend.py'} checkout {servers} {pid}"
    process = await shell.start(command=command, stdout=None, stderr=None)
    try:
        await eventually(pid.exists, PATIENCE)
        yield hook
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), PATIENCE)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_a_proxy_follows_the_registry(
    kind: str, shell: Shell, registry: list[str], tmp_path: Path
) -> None:
    shell.environment["PATH"] = os.environ["PATH"] + ":/usr/sbin"
    if shutil.which(kind, path=shell.environment["PATH"]) is None:
        pytest.skip(f"{kind} is not installed: apt-get install {kind}")
    port = free_port()

    async def service(name: str) -> asyncio.subprocess.Process:
        own = free_port()
        program = [sys.executable, "-c", SERVICE, str(own), name]
        place = ["shop/cart/checkout", "-t", f"tcp=127.0.0.1:{own}", "--drain", "2s"]
        return await shell.start("register", *place, *registry, "--", *program)

    async with proxy(kind, tmp_path, port, shell) as hook:
        watching = await shell.start("watch", "shop/cart/checkout", "--exec", hook, *registry)
        one, two = await service("one"), await service("two")
        await line_of(one.stderr)
        await line_of(two.stderr)
        seen: set[str] = set()

        async def both() -> bool:
            seen.add(await asyncio.to_thread(answer, port))
            return {"one", "two"} <= seen

        await eventually(both, PATIENCE)
        one.send_signal(signal.SIGTERM)
        answers = []
        while one.returncode is None:
            answers.append(await asyncio.to_thread(answer, port))
        answers += [await asyncio.to_thread(answer, port) for _ in range(5)]
        assert set(answers) <= {"one", "two"}
        assert set(answers[-5:]) == {"two"}
        watching.send_signal(signal.SIGTERM)
        two.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(watching.wait(), PATIENCE) == 0
        await asyncio.wait_for(two.wait(), PATIENCE)
