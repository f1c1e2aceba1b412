"""A replica's counters as Prometheus sees them; docs/operations.md, section Watch.

Everything here happens when somebody scrapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from teacher_server.replica.batching import Batcher
from teacher_server.scoring.counters import Histogram, ReplicaCounters

PREFIX = "conkd_teacher"


class ReplicaCollector(Collector):
    """Reads the counters and the queue of one replica; all metrics bear its kind."""

    def __init__(self, kind: str, batcher: Batcher[Any], counters: ReplicaCounters) -> None:
        self._kind = kind
        self._batcher = batcher
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is now."""
        counters = self._counters
        yield self._requests(counters)
        for name, text, value in self._totals(counters):
            total = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["kind"])
            total.add_metric([self._kind], value)
            yield total
        for name, text, value in self._levels(counters):
            level = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["kind"])
            level.add_metric([self._kind], value)
            yield level
        for name, text, histogram in self._histograms(counters):
            yield self._family(name, text, histogram)

    def _requests(self, counters: ReplicaCounters) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_requests", "Requests by how they ended", labels=["kind", "outcome"]
        )
        for outcome, count in (
            ("block", counters.blocks),
            ("invalid", counters.invalid),
            ("failed", counters.failed),
            ("abandoned", counters.abandoned),
        ):
            family.add_metric([self._kind, outcome], count)
        return family

    def _totals(self, counters: ReplicaCounters) -> Iterator[tuple[str, str, float]]:
        yield "positions", "Rows of all reply blocks", counters.positions
        yield "request_bytes", "Bytes of all valid requests", counters.request_bytes
        yield "reply_bytes", "Bytes of all reply blocks", counters.reply_bytes
        yield "rounds", "Rounds of device batches", counters.rounds
        yield "batch_tokens", "Ids in all device batches", counters.batch_tokens
        yield "batch_slots", "The same, padded to the longest example", counters.batch_slots
        yield "compress_seconds", "Device time of cutting rows down", counters.compress_s

    def _levels(self, counters: ReplicaCounters) -> Iterator[tuple[str, str, float]]:
        batcher = self._batcher
        yield "streams", "Streams of students that are open", counters.streams
        yield "in_flight", "Requests read and not answered", counters.in_flight
        yield "queue_requests", "Requests that wait for the device", batcher.num_waiting
        yield "queue_bytes", "Bytes of the requests that wait", batcher.num_waiting_bytes
        yield "queue_age_seconds", "Wait of the oldest request so far", batcher.queue_delay_s

    def _histograms(self, counters: ReplicaCounters) -> Iterator[tuple[str, str, Histogram]]:
        yield "queue_delay_seconds", "Wait of a request for its round", counters.queue_s
        yield "forward_seconds", "Forward and compression of a round", counters.forward_s
        yield "encode_seconds", "Encoding of a reply block", counters.encode_s
        yield "batch_fill_ratio", "Ids per padded slot of a device batch", counters.batch_fill

    def _family(self, name: str, text: str, histogram: Histogram) -> Metric:
        # Taken once: a value that is counted meanwhile must not make a bucket fall.
        sums = list(itertools.accumulate(histogram.counts))
        bounds = [*map(str, histogram.bounds), "+Inf"]
        family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=["kind"])
        buckets = list(zip(bounds, sums, strict=True))
        family.add_metric([self._kind], buckets=buckets, sum_value=histogram.total)
        return family


def replica_registry(
    kind: str, batcher: Batcher[Any], counters: ReplicaCounters
) -> CollectorRegistry:
    """All metrics of one replica, with memory and processor time of its process."""
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(kind, batcher, counters))
    ProcessCollector(registry=registry)
    return registry
