# SPDX-License-Identifier: MIT
"""The metrics in the form that Prometheus reads: the thin layer over prometheus_client, with a registry of our own, so
that nothing else in the process is told. On the server's event loop; takes a millisecond.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from coordinator.http.metrics import METRICS, Kind, Metric, Sample, Snapshot
from coordinator.tally import Histogram

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Every version of Prometheus reads this one."""


class Exposition:
    """Tells the metrics of a server.

    Args:
        take: Gives what they are read from.
    """

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(take))

    def text(self) -> bytes:
        """All metrics now."""
        return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take

    def describe(self) -> Iterable[Family]:
        """Without values: asked at registration, when there may be nothing yet."""
        return [_family(metric, ()) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        snapshot = self._take()
        for metric in METRICS:
            yield _family(metric, metric.read(snapshot))


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram)
            histograms.add_metric(labels, _buckets(value), value.total_s)
        return histograms
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket also what is in those before."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(histogram.counts)), strict=True))
