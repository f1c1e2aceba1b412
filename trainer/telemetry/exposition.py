"""Declared counters as Prometheus reads them; nothing happens here but at a scrape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trainer.telemetry.counters import Declaration, Histogram, declarations

FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def registry_of(
    prefix: str, labels: Mapping[str, str], sources: Callable[[], Iterable[object]]
) -> CollectorRegistry:
    """The metrics of one process, with its memory, processor time and open files.

    Args:
        prefix: before every name.
        labels: of every sample.
        sources: gives the dataclasses whose declared fields are read, at each scrape.
    """
    registry = CollectorRegistry()
    registry.register(_DeclaredCollector(prefix, labels, sources))
    ProcessCollector(registry=registry)
    return registry


def add_groups(
    registry: CollectorRegistry,
    prefix: str,
    labels: Mapping[str, str],
    declared: type,
    *,
    by: str,
    groups: Callable[[], Mapping[str, object]],
) -> None:
    """Add metrics that are counted apart by the value of one more label.

    Args:
        registry: of the process.
        prefix: before every name.
        labels: of every sample.
        declared: the dataclass whose declared fields, counters or gauges, are read.
        by: the label.
        groups: value of the label -> its instance of `declared`; called at each scrape.
    """
    registry.register(_GroupsCollector(prefix, labels, declared, by=by, groups=groups))


class _GroupsCollector(Collector):
    def __init__(
        self,
        prefix: str,
        labels: Mapping[str, str],
        declared: type,
        *,
        by: str,
        groups: Callable[[], Mapping[str, object]],
    ) -> None:
        self._prefix = prefix
        self._labels = labels
        self._declared = declared
        self._by = by
        self._groups = groups

    def collect(self) -> Iterator[Metric]:
        """Every declared number of every group, as it is now."""
        groups = self._groups()
        for name, it in declarations(self._declared).items():
            family = FAMILIES[it.kind](
                f"{self._prefix}_{it.metric}", it.text, labels=[*self._labels, self._by]
            )
            for value, group in groups.items():
                family.add_metric([*self._labels.values(), value], getattr(group, name))
            yield family


class _DeclaredCollector(Collector):
    def __init__(
        self, prefix: str, labels: Mapping[str, str], sources: Callable[[], Iterable[object]]
    ) -> None:
        self._prefix = prefix
        self._labels = labels
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Every declared number, as it is now; neighbours of one name are one metric."""
        for source in self._sources():
            declared = declarations(source).items()
            for metric, group in itertools.groupby(declared, key=lambda item: item[1].metric):
                values = [(it, getattr(source, name)) for name, it in group]
                yield self._family(f"{self._prefix}_{metric}", values)

    def _family(self, name: str, values: list[tuple[Declaration, Any]]) -> Metric:
        first = values[0][0]
        text = f"by {', '.join(first.labels)}" if first.labels else first.text
        family = FAMILIES[first.kind](name, text, labels=[*self._labels, *first.labels])
        for declaration, value in values:
            labels = [*self._labels.values(), *declaration.labels.values()]
            if isinstance(value, Histogram):
                family.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
            else:
                family.add_metric(labels, value)
        return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    # Taken once: a value that is counted meanwhile must not make a bucket fall.
    sums = itertools.accumulate(list(histogram.counts))
    return list(zip([*map(str, histogram.bounds), "+Inf"], sums, strict=True))
