"""The cost of signed registrations: `python -m tests.benchmarks.signing_cost [instances]`.

Prints one line for each figure: of the clock, and of the processor in this process alone. Lists are medians
of five rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import nkeys

import natsdisc
from natsdisc import EndpointSpec, Signer, Transport, Trust, endpoints, wire
from natsdisc.keys import key_of
from natsdisc.server import NatsServer
from natsdisc.store import Write

ROUNDS = 5
# As many as a bucket sends at once.
TOGETHER = 256


class Timer:
    """Seconds of the clock, and of the processor in this process."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def took(self) -> tuple[float, float]:
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def show(name: str, took: tuple[float, float], count: int) -> None:
    clock, processor = (seconds / count * 1e6 for seconds in took)
    print(f"{name:<48} {took[0] * 1e3:9.1f} ms  {clock:7.1f} µs each, {processor:7.1f} µs of the processor")


async def median(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    took = []
    for _ in range(ROUNDS):
        timer = Timer()
        await work()
        took.append(timer.took())
    clocks, processors = zip(*took, strict=True)
    return statistics.median(clocks), statistics.median(processors)


async def longest_hold(work: Callable[[], Awaitable[object]]) -> float:
    """Return for how long (seconds of the processor) `work` held the event loop in one piece."""
    longest, ended = 0.0, False

    async def tick() -> None:
        nonlocal longest
        while not ended:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    ticking = asyncio.create_task(tick())
    await work()
    ended = True
    await ticking
    return longest


async def register(discovery: natsdisc.Discovery, count: int) -> tuple[float, float]:
    """Write `count` instances as their owners would; return what it took."""
    bucket = discovery._store.bucket("v1_instances")
    instances = [
        EndpointSpec(
            "shop", f"c{number % 20}", "e", transport=Transport.nats(f"shop.c{number % 20}.e.{number}")
        ).with_instance_id(number)
        for number in range(count)
    ]
    timer = Timer()
    for at in range(0, count, TOGETHER):
        some = instances[at : at + TOGETHER]
        await asyncio.gather(
            *(bucket.create(Write(key_of(one.id), wire.dumps(one), owner="bench")) for one in some)
        )
    return timer.took()


def primitives(signer: Signer, trust: Trust, count: int = 2_000) -> None:
    timer = Timer()
    headers = [
        str(signer.sign("b", "shop.c.e.1", b"v" * 200, owner="o", time=number, until=0))
        for number in range(count)
    ]
    show("sign", timer.took(), count)
    for what in ("verify", "verify again, from memory"):
        timer = Timer()
        for header in headers:
            trust.verify("b", "shop.c.e.1", b"v" * 200, header)
        show(what, timer.took(), count)


async def main(count: int) -> None:
    signer = Signer(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    trusted = {"shop": [signer.public_key]}
    primitives(signer, Trust(trusted))
    async with NatsServer() as server:
        for prefix, signing in (("plain", None), ("signed", signer)):
            async with natsdisc.connect(server.url, bucket_prefix=prefix, signer=signing) as writer:
                show(f"register {count} {prefix}", await register(writer, count), count)
        for prefix, trust in (("plain", None), ("signed", None), ("signed", trusted)):
            how = "trusted" if trust else "not checked"

            async def first(prefix: str = prefix, trust: dict[str, list[str]] | None = trust) -> None:
                async with natsdisc.connect(server.url, bucket_prefix=prefix, trusted=trust) as reader:
                    assert len(await reader.list(endpoints())) == count

            show(f"first list of {count} {prefix}, {how}", await median(first), count)
            holds = [await longest_hold(first) for _ in range(ROUNDS)]
            print(
                f"{'longest hold of the event loop meanwhile':<48} {statistics.median(holds) * 1e3:9.1f} ms"
            )
            async with natsdisc.connect(server.url, bucket_prefix=prefix, trusted=trust) as reader:
                await reader.list(endpoints())
                again = await median(lambda: reader.list(endpoints()))
                show(f"another list of {count} {prefix}, {how}", again, count)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
