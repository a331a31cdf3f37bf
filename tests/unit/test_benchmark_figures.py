"""What the benchmarks make of their numbers: medians, ratios, tables, verdicts."""

from __future__ import annotations

import pytest

from tests.benchmarks import report
from tests.benchmarks.bench import Samples
from tests.benchmarks.figures import Figure, percentile, shown, slower_by, summarise, with_spread
from tests.benchmarks.goals import judge

COLD = "cold sync of 10,000"


def measures(**runs: list[float]) -> dict[str, Samples]:
    return {COLD: Samples(COLD, "ms", by_peer=runs)}


def test_a_figure_is_the_median_and_the_extremes() -> None:
    assert summarise([3.0, 1.0, 10.0]) == Figure(3.0, 1.0, 10.0, 3)
    with pytest.raises(ValueError, match="no runs"):
        summarise([])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_values_that_were_measured(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_a_percentile_covers_at_least_its_share() -> None:
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0], 0.67) == 3.0


def test_ratios_are_taken_run_by_run() -> None:
    # The machine slowed down between the runs; both slowed down alike.
    assert slower_by([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == Figure(2.0, 2.0, 2.0, 3)
    assert slower_by([2.0, 20.0], [1.0]) == Figure(2.0, 2.0, 2.0, 1)


def test_a_rate_is_better_when_it_is_higher() -> None:
    assert slower_by([500.0], [1_000.0], higher_is_better=True).median == 2.0


def test_a_zero_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="no runs"):
        slower_by([0.0], [0.0])
    assert report.ratio(measures(ours=[0.0], etcd=[0.0])[COLD], "etcd") is None
    assert report.ratio(measures(etcd=[1.0])[COLD], "etcd") is None


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (9.876, "9.88"), (123.4, "123"), (20_812.0, "20,800")],
)
def test_numbers_have_three_digits(number: float, text: str) -> None:
    assert shown(number) == text


def test_a_spread_needs_more_than_one_run() -> None:
    assert with_spread(summarise([12.0]), "ms") == "12.0 ms"
    assert with_spread(summarise([12.0, 11.0, 14.0]), "ms") == "12.0 ms (11.0 to 14.0)"


def test_tables_have_a_row_for_each_measure_and_a_gap_for_who_was_not_measured() -> None:
    both = measures(ours=[10.0], etcd=[20.0])
    both["rate"] = Samples("rate", "/s", higher_is_better=True, by_peer={"ours": [1_000.0]})
    head, cold, rate = report.rows(both)
    assert head == ["measure", "natsdisc (connect)", "etcd"]
    assert cold == [f"{COLD}, ms", "10.0", "20.0 x2.00"]
    assert rate == ["rate, /s", "1,000", "-"]
    assert report.as_markdown([head, cold]).splitlines()[1] == "|---|---|---|"
    assert report.short_rows(both)[1:] == [[COLD, "10.0 ms", "x2.00"]]


def test_goals_are_met_missed_or_not_measured() -> None:
    verdicts = {each.goal: each.met for each in judge(measures(ours=[100.0], etcd=[120.0], floor=[25.0]))}
    assert verdicts["cold sync of 10,000 no slower than etcd `get_prefix` and decode"] is True
    assert verdicts["cold sync of 10,000 at most 3 times the raw floor"] is False
    assert verdicts["cold sync of 10,000 at least 5 times faster than `kv.watchall()`"] is None
    assert len(verdicts) == 18
