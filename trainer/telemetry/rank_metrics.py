"""Prometheus metrics of one rank while it trains; docs/operations.md, section Watch.

Nothing is counted for them alone: a scrape reads the client's counters and the sums of the steps.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from trainer.config.run import RunConfig
from trainer.security.addresses import is_loopback
from trainer.security.credentials import NO_SECURITY, STUDENT_REMEDY
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.counters import counter
from trainer.telemetry.exposition import registry_of
from trainer.telemetry.metrics_http import MetricsServer
from trainer.telemetry.step_sums import StepSums

PREFIX = "conkd_student"


@dataclass(kw_only=True, eq=False)
class RankProgress:
    """Counters of this rank since its process began to train."""

    steps: int = counter("optimiser steps of this process")
    step_s: float = counter("seconds in steps", start=0.0)
    tokens: int = counter("input tokens without padding")
    exposed_wait_s: float = counter("seconds of steps spent waiting for targets", start=0.0)

    def add(self, sums: StepSums, step_s: float) -> None:
        """Take in a step of this rank alone, not yet summed over ranks."""
        self.steps += 1
        self.step_s += step_s
        self.tokens += int(sums.value("tokens"))
        self.exposed_wait_s += sums.value("wait_s")


class RankMetrics(contextlib.AbstractContextManager[RankProgress]):
    """The progress of one rank, served on a port while it trains if `watch.metrics_port` is set."""

    def __init__(self, config: RunConfig, rank: int, counters: ClientCounters | None) -> None:
        """Open the port.

        Raises:
            OSError: if the port is taken.
            ValueError: if the files of a server are missing (`watch.metrics_host`).
        """
        self._progress = RankProgress()
        self._server = _serve(config, rank, self._progress, counters)

    def __enter__(self) -> RankProgress:
        return self._progress

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()


def _serve(
    config: RunConfig, rank: int, progress: RankProgress, counters: ClientCounters | None
) -> MetricsServer | None:
    watch = config.watch
    if watch.metrics_port is None:
        return None
    sources = [progress] if counters is None else [progress, counters]
    # Student nodes have no certificate of a server, and need none to be scraped where they are.
    security = NO_SECURITY if is_loopback(watch.metrics_host) else config.teachers
    return MetricsServer(
        registry_of(PREFIX, {"rank": str(rank)}, lambda: sources),
        host=watch.metrics_host,
        port=watch.metrics_port + rank,
        security=security,
        remedy=STUDENT_REMEDY,
    )
