"""The results as a table of ratios, as Markdown, as JSON and as a chart."""

from __future__ import annotations

import importlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import peers
from .bench import Bench, Samples
from .figures import Figure, shown, slower_by, summarise, with_spread
from .goals import Verdict

_HINT = (
    "Each cell: the median of the runs (lowest to highest), and behind it how many times better natsdisc "
    "(connect) is: x2 is twice as fast, x0.5 half."
)


def machine() -> str:
    """Where it was measured."""
    model, memory = platform.machine(), 0.0
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        pass
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {system}"


def load() -> float:
    """The load average of the last minute for each core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def busy() -> str:
    """What a load means for the numbers."""
    return f"load {load():.1f} a core; it slows long work down more than short work, and so moves ratios"


def columns(measures: Iterable[Samples]) -> list[str]:
    """The peers that have a number, in the order in which they are listed."""
    present = {peer for samples in measures for peer in samples.by_peer}
    return [name for name in peers.ALL if name in present]


def cell(samples: Samples, peer: str) -> str:
    """A number with its spread and the ratio to ours."""
    runs = samples.by_peer.get(peer)
    if not runs:
        return "-"
    text = with_spread(summarise(runs))
    found = ratio(samples, peer)
    return text if found is None else f"{text} x{shown(found.median)}"


def ratio(samples: Samples, peer: str) -> Figure | None:
    """How many times better ours is; None for ours, and where zero makes it mean nothing."""
    base, runs = samples.by_peer.get(samples.base), samples.by_peer.get(peer)
    if peer == samples.base or not base or not runs:
        return None
    try:
        return slower_by(runs, base, higher_is_better=samples.higher_is_better)
    except ValueError:
        return None


def rows(measures: Mapping[str, Samples]) -> list[list[str]]:
    """The table: a head, then a row for each measure."""
    shown_peers = columns(measures.values())
    head = ["measure", *(peers.ALL[name].title for name in shown_peers)]
    body = [
        [f"{each.name}{f', {each.unit}' if each.unit else ''}", *(cell(each, peer) for peer in shown_peers)]
        for each in measures.values()
        if each.by_peer
    ]
    return [head, *body]


def as_text(table: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def short_rows(measures: Mapping[str, Samples]) -> list[list[str]]:
    """For the README: our medians, and the ratio of each peer."""
    names = [name for name in columns(measures.values()) if name not in ("ours",)]
    table = [["measure", "natsdisc", *(peers.ALL[name].title for name in names)]]
    for samples in measures.values():
        base = samples.by_peer.get(samples.base)
        if not base:
            continue
        ratios = [ratio(samples, name) for name in names]
        cells = ["-" if found is None else f"x{shown(found.median)}" for found in ratios]
        if any(found is not None for found in ratios):
            table.append([samples.name, with_spread(summarise(base), samples.unit), *cells])
    return table


def goals_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    words = {True: "met", False: "missed", None: "-"}
    return [["goal", "", "measured"], *([each.goal, words[each.met], each.numbers] for each in verdicts)]


def uses(names: Iterable[str]) -> list[str]:
    """How each was used, and how safe what it took is: both are part of what its number means."""
    entries = [peers.ALL[name] for name in names]
    return [f"{entry.title}: {entry.use}. {entry.durability}" for entry in entries]


def as_json(bench: Bench, verdicts: Iterable[Verdict]) -> dict[str, Any]:
    results = []
    for samples in bench.measures.values():
        for peer, runs in samples.by_peer.items():
            figure, found = summarise(runs), ratio(samples, peer)
            results.append(
                {
                    "measure": samples.name,
                    "unit": samples.unit,
                    "higher_is_better": samples.higher_is_better,
                    "peer": peer,
                    "durability": peers.ALL[peer].durability,
                    "median": figure.median,
                    "low": figure.low,
                    "high": figure.high,
                    "runs": runs,
                    "times_better_ours": None if found is None else found.median,
                }
            )
    return {
        "machine": machine(),
        "load_at_start": bench.load_at_start,
        "servers": bench.versions,
        "skipped": bench.skipped,
        "results": results,
        "goals": [{"goal": each.goal, "met": each.met, "measured": each.numbers} for each in verdicts],
    }


def write(directory: Path, bench: Bench, verdicts: Sequence[Verdict]) -> list[Path]:
    """results.json and, when matplotlib is there, results.png."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / "results.json"]
    written[0].write_text(json.dumps(as_json(bench, verdicts), indent=1) + "\n")
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        bench.say("no chart: matplotlib is not installed (extra bench)")
        return written
    written.append(directory / "results.png")
    _draw(pyplot, bench.measures, written[1])
    return written


def _draw(pyplot: Any, measures: Mapping[str, Samples], path: Path) -> None:
    """Ratios on a logarithmic scale: a bar to the right of 1 is how much better natsdisc is."""
    drawn: list[tuple[Samples, list[tuple[str, Figure]]]] = []
    for samples in measures.values():
        compared = [(peer, figure) for peer in peers.ALL if (figure := ratio(samples, peer)) is not None]
        if compared:
            drawn.append((samples, compared))
    height = sum(len(found) + 1 for _, found in drawn)
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 0.2 * max(height, 4)))
    colours = dict(zip(peers.ALL, pyplot.get_cmap("tab20").colors, strict=False))
    at, ticks, labels, named = 0, [], [], set()
    for samples, found in drawn:
        ticks.append(at + (len(found) - 1) / 2)
        labels.append(samples.name)
        for peer, figures in found:
            title = peers.ALL[peer].title
            axes.barh(
                at,
                figures.median - 1,
                left=1,
                color=colours[peer],
                label=None if peer in named else title,
                xerr=[[figures.median - figures.low], [figures.high - figures.median]],
                error_kw={"elinewidth": 0.7, "ecolor": "#555555"},
            )
            named.add(peer)
            at += 1
        at += 1
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the peer: natsdisc (connect), median and spread of the runs")
    if named:
        axes.legend(fontsize=7, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def legend() -> str:
    return _HINT
