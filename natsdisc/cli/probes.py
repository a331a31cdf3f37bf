"""Probes of a service: an HTTP request, a TCP connection, or a command."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import ssl
from asyncio.subprocess import DEVNULL
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import click

from natsdisc import Transport

from .credentials import without_secrets

__all__ = ["Probe", "ProbeFailedError", "exec_probe", "http_probe", "port_probe", "tcp_probe"]

# Succeeds by returning, within a time that its caller bounds.
Probe: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_LONGEST_LINE = 8192  # bytes of an HTTP status line
_PORTS = {"http": 80, "https": 443}


class ProbeFailedError(Exception):
    """A service did not answer as it should; the text says how."""


def http_probe(url: str) -> Probe:
    """Return a probe that sends GET `url`, and takes a status of 200 to 399 for success.

    Certificates of https are checked. Raises click.BadParameter for what is no such URL.
    """
    parts = _split(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise click.BadParameter(f"{url!r} is not a URL such as http://127.0.0.1:8080/health")
    host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    context = ssl.create_default_context() if parts.scheme == "https" else None
    target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    if any(character.isspace() or ord(character) > 0x7E for character in target):
        raise click.BadParameter(f"{url!r} holds characters that must be written as %XX")
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        "User-Agent: natsdisc\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")

    async def probe() -> None:
        reader, writer = await _connected(host, port, context)
        try:
            writer.write(request)
            await writer.drain()
            line = (await reader.readuntil(b"\n")).decode("latin-1").strip()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ProbeFailedError(f"{url} gave no HTTP answer: {error}") from error
        finally:
            writer.transport.abort()
        words = line.split(maxsplit=2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
            raise ProbeFailedError(f"{url} does not speak HTTP")
        if not 200 <= int(words[1]) < 400:
            raise ProbeFailedError(f"{url} answers {' '.join(words[1:])}")

    return probe


def tcp_probe(address: str) -> Probe:
    """Return a probe that connects to `address`, HOST:PORT. Raises click.BadParameter."""
    parts = _split(f"tcp://{address}")
    if not parts.hostname or not parts.port or parts.path:
        raise click.BadParameter(f"{address!r} is not HOST:PORT, such as 127.0.0.1:5432 or [::1]:5432")
    host, port = parts.hostname, parts.port

    async def probe() -> None:
        _, writer = await _connected(host, port, None)
        writer.transport.abort()

    return probe


def exec_probe(command: str) -> Probe:
    """Return a probe that runs `command`, split as a shell does, and takes exit code 0 for success.

    There is no shell: write sh -c '...' for one. It gets no credentials, and its output goes nowhere. When
    the probe is cancelled, it is killed with all that it started. Raises click.BadParameter.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.BadParameter(f"{command!r} cannot be split into words: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise click.BadParameter(f"{command!r}: there is no such program to run")

    async def probe() -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
                env=without_secrets(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise ProbeFailedError(f"{words[0]} cannot be started: {error.strerror or error}") from error
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code != 0:
            raise ProbeFailedError(f"{words[0]} ended with exit code {code}")

    return probe


def port_probe(transport: Transport) -> Probe | None:
    """Return a probe of the port that a `transport` of http or tcp names; None where it names none."""
    if not isinstance(transport.address, str):
        return None
    with suppress(click.BadParameter):
        if transport.kind == "tcp":
            return tcp_probe(transport.address)
        if transport.kind == "http":
            parts = _split(transport.address if "://" in transport.address else f"http://{transport.address}")
            if parts.hostname:
                host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
                return tcp_probe(f"{host}:{parts.port or _PORTS.get(parts.scheme, 80)}")
    return None


async def _connected(
    host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(host, port, ssl=context, limit=_LONGEST_LINE)
    except OSError as error:
        raise ProbeFailedError(f"{host}:{port} does not accept: {error.strerror or error}") from error


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise click.BadParameter(f"{url!r} is not an address: {error}") from None
    return parts
