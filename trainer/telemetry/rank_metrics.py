"""What one rank tells a Prometheus while it trains; docs/operations.md, section Watch.

Nothing is counted here that is not counted anyway: the client's counters are read at a scrape, and
the sums of a step are added up once it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.config.run import RunConfig
from trainer.security.credentials import NO_SECURITY, STUDENT_REMEDY, is_loopback
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.metrics_http import MetricsServer
from trainer.telemetry.step_sums import StepSums

PREFIX = "conkd_student"


@dataclass(kw_only=True, eq=False)
class RankProgress:
    """What this rank did since its process began to train."""

    steps: int = 0
    step_s: float = 0.0
    tokens: int = 0
    """Input tokens without padding."""
    exposed_wait_s: float = 0.0
    """Seconds in which training stood still for targets; a part of step_s."""

    def add(self, sums: StepSums, step_s: float) -> None:
        """Take in a step of this rank alone, not yet summed over ranks."""
        self.steps += 1
        self.step_s += step_s
        self.tokens += int(sums.value("tokens"))
        self.exposed_wait_s += sums.value("wait_s")


class StudentCollector(Collector):
    """Reads the progress of a rank and what its client counted, if it has one."""

    def __init__(self, rank: int, progress: RankProgress, counters: ClientCounters | None) -> None:
        self._rank = str(rank)
        self._progress = progress
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is now; the client's are its counters, "_s" spelt out."""
        progress = self._progress
        yield self._total("steps", "Optimiser steps", progress.steps)
        yield self._total("step_seconds", "Seconds in steps", progress.step_s)
        yield self._total("tokens", "Input tokens without padding", progress.tokens)
        wait_s = progress.exposed_wait_s
        yield self._total("exposed_wait_seconds", "Seconds of steps without targets", wait_s)
        if self._counters is not None:
            for name, count in dataclasses.asdict(self._counters).items():
                shown = f"{name[:-2]}_seconds" if name.endswith("_s") else name
                yield self._total(shown, f"{name} of trainer/telemetry/client_counters.py", count)

    def _total(self, name: str, text: str, value: float) -> Metric:
        total = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["rank"])
        total.add_metric([self._rank], value)
        return total


class RankMetrics(contextlib.AbstractContextManager[RankProgress]):
    """The progress of one rank, served on a port until it leaves if `watch.metrics_port` is set."""

    def __init__(self, config: RunConfig, rank: int, counters: ClientCounters | None) -> None:
        """Open the port.

        Raises:
            OSError: if the port is taken.
            ValueError: if the files of a server are missing (`watch.metrics_host`).
        """
        self._progress = RankProgress()
        self._server = _serve(config, rank, StudentCollector(rank, self._progress, counters))

    def __enter__(self) -> RankProgress:
        return self._progress

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()


def _serve(config: RunConfig, rank: int, collector: Collector) -> MetricsServer | None:
    watch = config.watch
    if watch.metrics_port is None:
        return None
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    # Student nodes have no certificate of a server, and need none to be scraped where they are.
    security = NO_SECURITY if is_loopback(watch.metrics_host) else config.teachers
    return MetricsServer(
        registry,
        host=watch.metrics_host,
        port=watch.metrics_port + rank,
        security=security,
        remedy=STUDENT_REMEDY,
    )
