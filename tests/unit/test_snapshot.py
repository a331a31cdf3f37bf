"""One look at a bucket lasts as long as something comes, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from natsdisc import MemoryStore, StoreUnavailableError
from natsdisc.store import Reader, Sink
from natsdisc.store.memory import MemoryBucket
from natsdisc.store.snapshot import read

PAUSE = 0.1


class SlowBucket(MemoryBucket):
    """Reports `steps` entries one by one, and ends or falls silent; `again` begins anew after each."""

    def __init__(self, steps: int, *, ends: bool = True, again: bool = False) -> None:
        super().__init__(MemoryStore().clock)
        self._steps, self._ends, self._again = steps, ends, again

    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        return Running(self._report(sink))

    async def _report(self, sink: Sink) -> None:
        sink.begin()
        for step in range(self._steps):
            await asyncio.sleep(PAUSE)
            if self._again:
                sink.begin()
            sink.put([(f"k{step}", b"v")])
        if self._ends:
            sink.end()


class BrokenBucket(MemoryBucket):
    def watch(self, prefix: str, sink: Sink, *, shared: bool = True) -> Reader:
        async def fail() -> None:
            sink.fail(StoreUnavailableError("broken"))

        return Running(fail())


class Running:
    """A reader that is a task."""

    age = 0.0

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


async def test_it_lasts_while_something_comes() -> None:
    values = await read(SlowBucket(12), "", "it", timeout=5 * PAUSE)
    assert len(values) == 12


@pytest.mark.parametrize("again", [False, True], ids=["silence", "beginning again and again"])
async def test_it_ends_when_it_gets_no_further(again: bool) -> None:
    bucket = SlowBucket(100 if again else 2, ends=False, again=again)
    with pytest.raises(StoreUnavailableError, match="could not read it: nothing more within"):
        await read(bucket, "", "it", timeout=5 * PAUSE)


class BusyBucket(SlowBucket):
    """Reports nothing while another snapshot is read for `seconds`, or for ever."""

    def __init__(self, seconds: float) -> None:
        super().__init__(3)
        self._until = asyncio.get_running_loop().time() + seconds

    def is_busy(self, within: float) -> bool:
        return asyncio.get_running_loop().time() < self._until + within

    async def _report(self, sink: Sink) -> None:
        await asyncio.sleep(self._until - asyncio.get_running_loop().time())
        await super()._report(sink)


async def test_a_large_snapshot_that_is_read_before_it_is_progress() -> None:
    assert len(await read(BusyBucket(10 * PAUSE), "", "it", timeout=5 * PAUSE)) == 3


async def test_even_progress_has_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natsdisc.store.snapshot._LONGEST_S", 4 * PAUSE)
    with pytest.raises(StoreUnavailableError, match="could not read it"):
        await read(BusyBucket(3600), "", "it", timeout=2 * PAUSE)


async def test_what_ends_the_watch_ends_the_look() -> None:
    with pytest.raises(StoreUnavailableError, match=r"^broken$"):
        await read(BrokenBucket(MemoryStore().clock), "", "it", timeout=5)
