"""What a rank tells a Prometheus: its steps, and what its client counted."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from tests.support.scrapes import of_rank, scrape
from tests.support.student_runs import free_port
from trainer.config.run import RunConfig
from trainer.config.watch import WatchConfig
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.rank_metrics import RankMetrics, RankProgress
from trainer.telemetry.step_sums import StepSums


def sums(tokens: int, wait_s: float) -> StepSums:
    counted = {"tokens": np.asarray(tokens), "wait_s": np.asarray(wait_s)}
    return dataclasses.replace(StepSums.zero(torch.device("cpu")), host=counted)


def run_config(port: int | None) -> RunConfig:
    return RunConfig(data="a", output="b", watch=WatchConfig(metrics_port=port))


def test_scrape_of_a_rank_tells_its_steps_and_every_counter_of_its_client() -> None:
    names = [field.name for field in dataclasses.fields(ClientCounters)]
    counters = ClientCounters(**{name: 10 + number for number, name in enumerate(names)})
    port = free_port() - 3
    with RankMetrics(run_config(port), 3, counters) as progress:
        progress.add(sums(100, 0.25), 2.0)
        progress.add(sums(60, 0.5), 1.0)
        counters.resends = 99
        seen = of_rank(scrape(f"127.0.0.1:{port + 3}"), 3)
    shown = [re.sub("_s$", "_seconds", name) for name in names]
    expected = {f"{name}_total": 10.0 + number for number, name in enumerate(shown)}
    expected |= {"resends_total": 99, "steps_total": 2, "step_seconds_total": 3}
    assert seen == expected | {"tokens_total": 160, "exposed_wait_seconds_total": 0.75}
    with pytest.raises(OSError, match="refused"):
        scrape(f"127.0.0.1:{port + 3}")


def test_rank_without_a_port_or_teachers_counts_nevertheless() -> None:
    with RankMetrics(run_config(None), 0, None) as progress:
        progress.add(sums(5, 0.0), 1.0)
    assert dataclasses.asdict(progress) == dataclasses.asdict(
        RankProgress(steps=1, step_s=1.0, tokens=5, exposed_wait_s=0.0)
    )
