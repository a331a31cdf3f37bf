"""What a pick, a change, and an instance in a view cost: `python -m tests.benchmarks.bench_pick [CHART.png]`.

The chart needs matplotlib.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import natsdisc
from natsdisc import EndpointSpec, Transport, balance, endpoints, wire
from natsdisc.keys import key_of
from natsdisc.model import EndpointInstance

PICK_FROM, PICKS = 1_000, 20_000
LARGE, UPDATES = 100_000, 2_000
QUERY = endpoints("shop")
METADATA = {"weight": 2, "zone": "a"}
# Of the chart: how many instances, and nanoseconds.
SIZES = (10, 100, 1_000, 10_000, 100_000)
Curve = list[tuple[int, float]]


def instance(number: int, *, load: int = 0) -> EndpointInstance:
    transport = Transport.nats(f"shop.cart.checkout.{number}")
    metadata = {**METADATA, "load": load}
    return EndpointSpec("shop", "cart", "checkout", transport=transport, metadata=metadata).with_instance_id(
        2**63 + number * 7919
    )


async def filled(
    count: int, picker: balance.Balance | None = None
) -> tuple[natsdisc.Discovery, natsdisc.View[EndpointInstance]]:
    """A view of `count` instances that a store reported."""
    discovery = natsdisc.Discovery(natsdisc.MemoryStore())
    view = discovery.view(QUERY, balance=picker)
    await view.wait_for(0)
    for number in range(count):
        put(view, instance(number))
    assert len(view) == count
    return discovery, view


def put(view: natsdisc.View[EndpointInstance], new: EndpointInstance) -> None:
    """What the store's reader does with a message, after it has parsed its headers."""
    view._informer.put([(key_of(new.id), wire.dumps(new))])


def each(work: Callable[[], object], times: int) -> float:
    """Nanoseconds of one call: the best of five rounds."""
    rounds = []
    for _ in range(5):
        started = time.perf_counter_ns()
        for _ in range(times // 5):
            work()
        rounds.append((time.perf_counter_ns() - started) / (times // 5))
    return min(rounds)


async def picks() -> None:
    pickers: dict[str, tuple[balance.Balance, float]] = {
        "RoundRobin": (balance.RoundRobin(), 2_000),
        "Random": (balance.Random(), 2_000),
        "LeastOutstanding, idle": (balance.LeastOutstanding(), 5_000),
        "LeastOutstanding, busy": (balance.LeastOutstanding(), 5_000),
        "Weighted": (balance.Weighted(), 5_000),
        "PreferZone(RoundRobin)": (balance.PreferZone("a"), 5_000),
    }
    print(f"\na pick of {PICK_FROM:,}, in ns")
    for name, (picker, goal) in pickers.items():
        discovery, view = await filled(PICK_FROM, picker)
        if name.endswith("busy"):
            for one in view.instances[::2]:
                picker.started(one.id)
        report(name, each(view.pick, PICKS), goal)
        await discovery.close()
    discovery, view = await filled(PICK_FROM)
    keys = iter(range(2**62))
    report("Rendezvous", each(lambda: view.pick(f"user-{next(keys)}"), PICKS // 20), 300_000)
    view.report_failure(view.instances[0].id)
    report("RoundRobin, one set aside", each(view.pick, PICKS // 20), 2_000)
    await discovery.close()


async def memory_and_changes() -> None:
    data = [wire.dumps(instance(number)) for number in range(LARGE)]
    keys = [key_of(instance(number).id) for number in range(LARGE)]
    json_bytes = sum(map(len, data)) / LARGE
    discovery = natsdisc.Discovery(natsdisc.MemoryStore())
    view = discovery.view(QUERY)
    await view.wait_for(0)
    gc.collect()
    tracemalloc.start()
    for number in range(LARGE):
        # Fresh objects, as they come out of a message.
        view._informer.put([(str(keys[number].encode(), "ascii"), bytes(bytearray(data[number])))])
    gc.collect()
    fed, _ = tracemalloc.get_traced_memory()
    view.pick()
    gc.collect()
    read, _ = tracemalloc.get_traced_memory()
    view.pick("key")
    gc.collect()
    keyed, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\na view of {LARGE:,}, in bytes an instance ({json_bytes:.0f} bytes of JSON each)")
    report("beyond its JSON", fed / LARGE - json_bytes, 1_500)
    report("and once it was read", read / LARGE - json_bytes, 1_500)
    report("and once picked by key", keyed / LARGE - json_bytes, 1_500)

    print(f"\na change in a view of {LARGE:,}, in us")
    loads = iter(range(1, 2**62))
    report("an update", each(lambda: put(view, instance(LARGE // 2, load=next(loads))), UPDATES) / 1e3)
    small_discovery, small = await filled(100)
    report(
        "the same in a view of 100", each(lambda: put(small, instance(50, load=next(loads))), UPDATES) / 1e3
    )
    await small_discovery.close()

    def change_and(read: Callable[[], object]) -> Callable[[], object]:
        def work() -> None:
            put(view, instance(LARGE // 2, load=next(loads)))
            read()

        return work

    report("an update and a look at instances", each(change_and(lambda: view.instances), 10) / 1e3)
    report("an update and a pick", each(change_and(view.pick), 10) / 1e3)
    report("an update and a pick by key", each(change_and(lambda: view.pick("key")), 10) / 1e3)
    await discovery.close()
    few, view = await filled(PICK_FROM)
    print(f"\na change in a view of {PICK_FROM:,}, in us")

    def change_a_few(read: Callable[[], object]) -> Callable[[], object]:
        def work() -> None:
            put(view, instance(PICK_FROM // 2, load=next(loads)))
            read()

        return work

    report("an update and a pick", each(change_a_few(view.pick), 100) / 1e3)
    report("an update and a pick by key", each(change_a_few(lambda: view.pick("key")), 100) / 1e3)
    await few.close()


PICKERS: dict[str, Callable[[], balance.Balance]] = {
    "round robin": balance.RoundRobin,
    "random": balance.Random,
    "least outstanding of two": balance.LeastOutstanding,
    "weighted": balance.Weighted,
}


async def curve(picker: Callable[[], balance.Balance] | None) -> tuple[Curve, Curve]:
    """Nanoseconds by number of instances: of a pick, and of an update and a pick; without a picker by key."""
    calm, churning = [], []
    loads = iter(range(1, 2**62))
    for size in SIZES:
        balancing = None if picker is None else picker()
        discovery, view = await filled(size, balancing)
        if balancing is not None:
            for one in view.instances[: size // 2]:
                balancing.started(one.id)
        key = "user-7" if picker is None else None

        def change_and_pick(
            view: natsdisc.View[EndpointInstance] = view, size: int = size, key: str | None = key
        ) -> None:
            put(view, instance(size // 2, load=next(loads)))
            view.pick(key)

        few = max(10, min(PICKS, 500_000 // size))
        calm.append((size, each(partial(view.pick, key), few if picker is None else PICKS)))
        churning.append((size, each(change_and_pick, few)))
        await discovery.close()
    return calm, churning


async def draw(file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, picker in {**PICKERS, "rendezvous": None}.items():
        for axis, points in zip(axes, await curve(picker), strict=True):
            axis.plot(*zip(*[(size, ns / 1e3) for size, ns in points], strict=True), marker="o", label=name)
    for axis, title in zip(axes, ("a pick", "an update and a pick"), strict=True):
        axis.set(xscale="log", yscale="log", title=title, xlabel="instances in the view")
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylabel("microseconds")
    axes[0].hlines([2, 5, 300], 500, 2_000, colors="black", linestyles=":", label="goals for 1,000")
    axes[0].legend()
    figure.savefig(file, dpi=120)
    print(f"\n{file}")


def report(name: str, measured: float, goal: float | None = None) -> None:
    against = "" if goal is None else f"   goal {goal:>9,.0f}  {'met' if measured < goal else 'MISSED'}"
    print(f"  {name:36} {measured:>12,.0f}{against}")


if __name__ == "__main__":
    asyncio.run(picks())
    asyncio.run(memory_and_changes())
    for file in sys.argv[1:]:
        asyncio.run(draw(file))
