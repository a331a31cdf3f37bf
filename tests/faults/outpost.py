"""Watchers in a second process, which tell over a pipe what they have seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.follower import QUERIES, Follower, opened_in

__all__ = ["Outpost"]

ROOT = Path(__file__).resolve().parents[2]


class Outpost:
    """The second process: watchers of all queries in some Discoveries of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asking = asyncio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, urls: Sequence[str], discoveries: int) -> AsyncIterator[Outpost]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.outpost", str(discoveries), *urls),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=2**24,
            cwd=ROOT,
        )
        try:
            yield cls(process)
            assert process.stdin is not None
            process.stdin.close()
            assert await process.wait() == 0, "the second process did not end well"
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def reports(self) -> list[dict[str, Any]]:
        """What each of its followers has seen, one Discovery's queries after the other's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking:
            self._process.stdin.write(b"\n")
            line = await self._process.stdout.readline()
        assert line, "the second process has ended"
        return list(json.loads(line))


async def main(discoveries: int, urls: list[str]) -> None:
    """Watch until the input ends, and answer every line of it with what was seen."""
    logging.getLogger().addHandler(logging.NullHandler())
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with contextlib.AsyncExitStack() as opened:
        followers: list[Follower] = []
        for _ in range(discoveries):
            discovery = await opened_in(opened, urls)
            followers += [Follower(discovery, query) for query in QUERIES]
        for follower in followers:
            opened.push_async_callback(follower.aclose)
        while await reader.readline():
            print(json.dumps([follower.report() for follower in followers]), flush=True)
    transport.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(20):
        await asyncio.sleep(0)
        left = {task for task in left if not task.done()}
    assert not left, f"tasks left behind: {left}"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
