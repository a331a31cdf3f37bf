"""Listeners at an address where no NATS server answered."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from urllib.parse import urlsplit

__all__ = ["what_listens"]

# A server speaks first, and at once; what is silent for this long (seconds) waits for us to speak.
_PATIENCE = 2.0
_PORT = 4222


async def what_listens(url: str) -> tuple[str, str]:
    """Return what is wrong with the address of `url`, and what to do about it."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    host, port = parts.hostname or "127.0.0.1", parts.port or _PORT
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
    except socket.gaierror:
        return f"there is no host {host}", "check the name in --server"
    except TimeoutError:
        return f"{where} does not answer", "check the address, and firewalls between here and there"
    except OSError as error:
        reason = "nothing listens" if isinstance(error, ConnectionRefusedError) else str(error)
        return f"{where}: {reason}", "start nats-server there, or check the port in --server"
    try:
        line = b""
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return _judged(where, line)


def _judged(where: str, line: bytes) -> tuple[str, str]:
    if not line.startswith(b"INFO "):
        return (
            f"what listens on {where} is not a NATS server",
            "use its client port (4222 by default; 8222 is for monitoring)",
        )
    with suppress(ValueError):
        info = json.loads(line.removeprefix(b"INFO "))
        # Only what takes clients tells them who they are.
        if "client_id" not in info:
            return (
                f"{where} is a NATS server's port for other servers",
                "use its client port (4222 by default; 6222 is for routes, 7422 for leaf nodes)",
            )
        if info.get("tls_verify"):
            return (
                f"{where} wants TLS and a certificate",
                "use --tlscert and --tlskey, and --tlsca for its own",
            )
        if info.get("tls_required"):
            return f"{where} wants TLS", "use --tlsca, if the system does not trust its certificate"
    return f"{where} is a NATS server", "see the error above"
