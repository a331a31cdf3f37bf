"""Ends of nats-py's transports: bounded, whatever the other side does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import nats.aio.transport
from nats.aio.client import Client

__all__ = ["abort", "end_gently", "is_encrypted", "quieten", "websocket_timeout"]

# nats-py upgrades to TLS with a second writer; the first one stays the owner of the socket.
_WRITERS = ("_io_writer", "_bare_io_writer")


def is_encrypted(client: Client) -> bool:
    """Return whether the bytes of `client` go through TLS now."""
    transport = getattr(client, "_transport", None)
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        return writer.get_extra_info("ssl_object") is not None
    return bool(getattr(transport, "_using_tls", False))


def websocket_timeout(seconds: float) -> Any:
    """Return the `seconds` that nats-py hands to aiohttp in the form that this aiohttp does not warn of.

    aiohttp means by it how long closing a websocket takes, and not how long connecting takes.
    """
    form = getattr(nats.aio.transport.aiohttp, "ClientWSTimeout", None)  # since aiohttp 3.11
    return seconds if form is None else form(ws_close=seconds)


def abort(transport: Any) -> None:
    """Close the socket of a nats-py transport at once; what is not sent yet is dropped."""
    for name in _WRITERS:
        writer = getattr(transport, name, None)
        if writer is not None:
            with suppress(Exception):
                writer.transport.abort()
    response = getattr(getattr(transport, "_ws", None), "_response", None)
    connection = getattr(response, "connection", None)
    if connection is not None and connection.transport is not None:
        with suppress(Exception):
            connection.transport.abort()


def quieten(transport: Any) -> None:
    """Tell asyncio that a stream is encrypted, or it warns of every end of a TLS connection of nats-py's."""
    protocol = getattr(getattr(transport, "_io_writer", None), "_protocol", None)
    if protocol is not None and hasattr(protocol, "_over_ssl"):
        protocol._over_ssl = transport._io_writer.get_extra_info("sslcontext") is not None


async def end_gently(transport: Any, unsent: list[bytes], timeout: float) -> None:
    """Send what is `unsent`, say goodbye and close; after `timeout` seconds abort. Raises nothing."""
    ending = asyncio.create_task(_end(transport, unsent), name="natsdisc-goodbye")
    try:
        await asyncio.wait((ending,), timeout=timeout)
    finally:
        abort(transport)
        ending.cancel()
    await asyncio.wait((ending,), timeout=timeout)
    # Closing the socket itself takes the loop some turns more.
    for _ in range(3):
        await asyncio.sleep(0)


async def _end(transport: Any, unsent: list[bytes]) -> None:
    with suppress(Exception):
        if unsent:
            transport.writelines(unsent)
            await transport.drain()
        transport.close()
        await transport.wait_closed()
