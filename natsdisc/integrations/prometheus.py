"""`Discovery.stats()` for Prometheus (extra `prometheus`)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..discovery import Discovery
from ..measure import MEASURES

__all__ = ["DiscoveryCollector"]


class DiscoveryCollector(Collector):
    """Register it with a `CollectorRegistry`, one Discovery a registry; it reads when it is scraped."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    def describe(self) -> Iterator[Metric]:
        """The names, for a registry that wants to know them first."""
        for measure in MEASURES:
            name = f"natsdisc_{measure.name}{'_seconds' if measure.unit else ''}"
            family = CounterMetricFamily if measure.grows else GaugeMetricFamily
            yield family(name, measure.text)

    def collect(self) -> Iterator[Metric]:
        """The numbers as they are now."""
        stats = self._discovery.stats()
        for measure, metric in zip(MEASURES, self.describe(), strict=True):
            for labels, value in measure.read(stats):
                suffix = "_total" if measure.grows else ""
                metric.add_sample(f"{metric.name}{suffix}", dict(labels), value)
            yield metric
