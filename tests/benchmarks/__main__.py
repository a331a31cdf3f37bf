"""natsdisc and what else there is, in one run on this machine: `python -m tests.benchmarks --help`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import parts_read, parts_rest, parts_write, peers, report
from .bench import Bench, Settings
from .goals import judge

PARTS: dict[str, Callable[[Bench], None]] = {
    "cold_sync": parts_read.cold_sync,
    "list": parts_read.listing,
    "register": parts_write.register,
    "events": parts_write.events,
    "fanout": parts_write.fanout,
    "crash": parts_write.crash,
    "resync": parts_read.resync,
    "blocking": parts_read.blocking,
    "memory": parts_rest.memory,
    "idle": parts_rest.idle,
    "server": parts_rest.server,
    "floor": parts_read.floor,
}
# What `cold_sync` measures too.
_ONLY_ALONE = ("floor",)
_BUSY = 0.5
_QUICK_SIZES = (10, 1_000, 10_000)
_SIZES = (10, 1_000, 10_000, 100_000)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of: {' '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="fewer runs, at most 10,000 instances")
    parser.add_argument("--runs", type=int, metavar="N", help="how often each is measured (5, quick: 2)")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="numbers of instances")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results.json and results.png go")
    parser.add_argument(
        "--peers", nargs="+", choices=sorted(peers.ALL), metavar="PEER", help=f"only: {' '.join(peers.ALL)}"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--natsio-python", metavar="PATH", help="a Python 3.13 that has natsio and orjson")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a part failed as a whole."""
    options = arguments().parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        arguments().error(f"no such part: {', '.join(unknown)}")
    parts = options.parts or [part for part in PARTS if part not in _ONLY_ALONE]
    settings = Settings(
        runs=options.runs or (2 if options.quick else 5),
        quick=options.quick,
        peers=frozenset(options.peers or peers.ALL),
        pythons={"natsio": options.natsio_python} if options.natsio_python else {},
        sizes=tuple(options.sizes or (_QUICK_SIZES if options.quick else _SIZES)),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    failed = False
    if report.load() > _BUSY:
        print(f"This machine is busy: {report.busy()}", file=sys.stderr)
    with Bench(settings) as bench:
        for part in parts:
            started = time.monotonic()
            try:
                PARTS[part](bench)
            except Exception as error:
                failed = True
                bench.say(f"part {part} failed: {error!r}")
            bench.say(f"  {part}: {time.monotonic() - started:.0f} s")
            if options.out:
                with contextlib.suppress(Exception):  # so that a run that is cut short leaves what it has
                    report.write(options.out, bench, judge(bench.measures))
        show(bench, options.markdown)
        if options.out:
            for path in report.write(options.out, bench, judge(bench.measures)):
                bench.say(f"wrote {path}")
    return int(failed)


def show(bench: Bench, markdown: bool) -> None:
    verdicts = [each for each in judge(bench.measures) if each.met is not None]
    layout = report.as_markdown if markdown else report.as_text
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    print(f"{report.machine()}; {versions}\n")
    if markdown:
        print(layout(report.short_rows(bench.measures)), "\n")
    print(report.legend(), "\n")
    print(layout(report.rows(bench.measures)), "\n")
    print("How each was used, and how durable what it acknowledged is:")
    for line in report.uses(report.columns(bench.measures.values())):
        print(f"- {line}")
    for name, reason in bench.skipped.items():
        print(f"- {peers.ALL[name].title} skipped: {reason}")
    if verdicts:
        print()
        print(layout(report.goals_table(verdicts)))


if __name__ == "__main__":
    sys.exit(main())
