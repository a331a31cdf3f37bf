"""A forked child has its parent's Discovery in its memory, and its parent's socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, sys

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints

PLACE = sys.argv[2], "c"


def spec(endpoint: str) -> EndpointSpec:
    return EndpointSpec(*PLACE, endpoint, transport=Transport.nats("s"))


async def in_the_child(discovery, mine) -> None:
    for use in (
        lambda: discovery.register(spec("theirs")),
        lambda: discovery.unregister(mine),
        lambda: discovery.update(mine, metadata={"a": 1}),
        lambda: discovery.drain(mine),
        lambda: discovery.list(endpoints(*PLACE)),
        lambda: discovery.list_and_watch(endpoints(*PLACE)).synced(),
    ):
        try:
            await use()
        except natsdisc.ClosedError as error:
            print(error)
        else:
            print("used")
    await discovery.close(drain=1)
    async with natsdisc.connect(sys.argv[1]) as own:
        await own.register(spec("childs"))
        print(len(await own.list(endpoints(*PLACE))))


async def main() -> None:
    async with natsdisc.connect(sys.argv[1]) as discovery:
        mine = await discovery.register(spec("parents"))
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(in_the_child(discovery, mine))
            finally:
                sys.stdout.flush()
                os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert await discovery.list(endpoints(*PLACE)) == [mine]
        assert discovery.registrations[0].state == "active"
        assert not mine.metadata
    print("parent", os.getpid())


asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_leaves_its_parents_discovery_alone(nats_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, nats_url, tmp_path.name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *refusals, seen, parent = done.stdout.splitlines()
    pid = parent.removeprefix("parent ")
    assert refusals == [f"this Discovery is process {pid}'s, which forked this one; make one here"] * 6
    assert seen == "2"
