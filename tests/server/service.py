"""A process that registers endpoints and lives until it is told to end, for tests to kill and stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import natsdisc
from natsdisc import EndpointSpec, Transport

ROOT = Path(__file__).resolve().parents[2]


async def main(urls: list[str], prefix: str, namespace: str, count: int, ttl: float, replicas: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with natsdisc.connect(urls, bucket_prefix=prefix, lease_ttl=ttl, replicas=replicas) as discovery:
        for number in range(count):
            await discovery.register(
                EndpointSpec(namespace, "comp", f"ep{number}", transport=Transport.nats("addr"))
            )
        print(f"{discovery.instance_id:x}", flush=True)
        await ended.wait()


class Service:
    """Such a process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process, instance_id: int) -> None:
        self._process = process
        self.instance_id = instance_id

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        return await self._process.wait()


@asynccontextmanager
async def running(
    urls: list[str],
    prefix: str,
    *,
    namespace: str = "ns",
    count: int = 1,
    ttl: float = 2.0,
    replicas: int = 1,
) -> AsyncIterator[Service]:
    """Start one, and go on when it has registered; it is killed at the end if it is still there."""
    arguments = [",".join(urls), prefix, namespace, str(count), str(ttl), str(replicas)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        assert line, "the service did not come up"
        yield Service(process, int(line, 16))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


if __name__ == "__main__":
    servers, prefix, namespace, count, ttl, replicas = sys.argv[1:]
    asyncio.run(main(servers.split(","), prefix, namespace, int(count), float(ttl), int(replicas)))
