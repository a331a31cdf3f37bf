"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

import natsdisc
from natsdisc import Discovery
from tests.server.shell import MARK, Shell


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    environment |= {MARK: secrets.token_hex(8), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "80"}
    shell = Shell(environment)
    yield shell
    await shell.close()


@pytest.fixture
async def prefix(nats_url: str) -> AsyncIterator[str]:
    """A registry of the test's own on the shared server."""
    prefix = f"cli{secrets.token_hex(6)}"
    yield prefix
    client = await nats.connect(nats_url)
    js = client.jetstream()
    for stream in await js.streams_info():
        if prefix in stream.config.name:
            await js.delete_stream(stream.config.name)
    await client.close()


@pytest.fixture
def registry(nats_url: str, prefix: str) -> list[str]:
    """The options that lead to it."""
    return ["--server", nats_url, "--bucket-prefix", prefix]


@pytest.fixture
async def discovery(nats_url: str, prefix: str) -> AsyncIterator[Discovery]:
    async with natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=0x1F) as discovery:
        yield discovery
