"""Step metrics as they are declared: formed of sums that are counted, summed over a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.support.step_metrics import step
from trainer.loss.closeness import watched_counts
from trainer.loss.gate_statistics import HISTOGRAM_BINS, GateStatistics
from trainer.loss.soft_targets import SoftTargets
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.run_totals import DERIVED, RUN_TOTALS, RunTotals
from trainer.telemetry.step_metrics import STEP_METRICS, TEACHER_METRICS
from trainer.telemetry.step_sums import GlobalSums, StepSums

HISTOGRAM = np.arange(HISTOGRAM_BINS)
CLOSE = {
    # Of each kind: mass, agreed and shared at item steps, the same at word steps.
    True: [1.5, 1.0, 0.25, 0.0, 0.0, 0.125, 0.0, 0.0, 0.0, 0.0],
    False: [0.0] * 10,
}


def micro_batch(*, teachers: bool) -> StepSums:
    """Two positions, one of them an item step, in six slots."""
    gates = {"gate_item": 1.0, "mass_item": 0.75, "histogram_item": HISTOGRAM}
    nothing = watched_counts(SoftTargets(labels_P=torch.empty(0), gold_P=torch.empty(0)))
    zero = dict.fromkeys([*(it.name for it in dataclasses.fields(GateStatistics)), *nothing], 0.0)
    close = {"dialogue_learning": 2, "dialogue_watched_item": 1, "recommendation_learning": 1}
    host = {
        "tokens": 5,
        "slots": 6,
        "positions": 2,
        "item_steps": 1,
        "word_steps": 1,
        "wait_s": 0.5,
    }
    host |= {**zero, "histogram_word": 0 * HISTOGRAM, **gates, **close} if teachers else {}
    return StepSums(
        device_N=torch.tensor([3.0, 4.0, *CLOSE[teachers]], dtype=torch.float64),
        host={name: np.asarray(value, np.float64) for name, value in host.items()},
    )


def over_two_ranks(sums: StepSums, counted: ClientCounters | None) -> GlobalSums:
    return sums.over_ranks(
        lambda host, device: [2 * value for value in (*device.tolist(), *host)], 2, counted
    )


def line(total: GlobalSums) -> dict[str, object]:
    return total.metrics(
        step=7,
        step_s=2.0,
        num_examples=4,
        learning_rate=0.5,
        grad_norm=None,
        loss_scale=None,
        was_skipped=False,
        gamma=0.4,
        temperature=2.0,
    )


def test_every_metric_is_formed_of_sums_over_micro_batches_and_ranks() -> None:
    sums = StepSums.zero(torch.device("cpu"))
    for _ in range(3):
        sums += micro_batch(teachers=True)
    logged = line(over_two_ranks(sums, ClientCounters(requests=5, answer_s=0.5)))
    assert list(logged) == [it.name for it in (*STEP_METRICS, *TEACHER_METRICS)]
    expected = {
        **{"step": 7, "loss": 4.5, "nll": 2.0, "positions": 12, "tokens_per_s": 15.0},
        **{"padding": 1.0 - 30 / 36, "teacher_wait_s": 1.5, "skipped_steps": 0, "grad_norm": None},
        **{"teacher_requests": 10, "teacher_answer_s": 1.0, "cache_hits": 0, "kept_mass": 0.0},
        **{"gamma": 0.4, "temperature": 2.0},
        **{"num_item_steps": 6, "lambda_item_steps": 1.0, "lambda_word_steps": 0.0},
        **{"gate_item_steps": 0.75 / HISTOGRAM.sum(), "gate_word_steps": None},
        "gate_histogram_item_steps": (6 * HISTOGRAM).tolist(),
        **{"dialogue_student_mass": 0.75, "recommendation_student_mass": 0.125},
        **{"dialogue_agreement_item_steps": 1.0, "dialogue_overlap_item_steps": 0.25},
        **{"dialogue_overlap_word_steps": None, "recommendation_overlap_item_steps": None},
    }
    assert {name: logged[name] for name in expected} == expected
    integers = ("teacher_requests", "positions", "skipped_steps", "num_item_steps")
    assert all(type(logged[name]) is int for name in integers)


def test_a_run_without_teachers_logs_the_step_alone() -> None:
    logged = line(over_two_ranks(micro_batch(teachers=False), None))
    assert list(logged) == [it.name for it in STEP_METRICS]
    assert logged["teacher_wait_s"] is None


def test_totals_are_sums_of_keys_that_lines_have() -> None:
    keys = {it.name for it in (*STEP_METRICS, *TEACHER_METRICS)}
    assert {name for it in RUN_TOTALS for name in it.needs} <= keys | {"last_step", *DERIVED}


def test_totals_weigh_every_steps_mean_by_its_positions() -> None:
    totals = RunTotals()
    totals.add(step(0.5, 0.1, number=1))
    totals.add(step(0.7, 0.3, number=2) | {"num_item_steps": 6})
    summary = totals.summary()
    assert list(summary) == [it.name for it in RUN_TOTALS]
    assert (summary["steps"], summary["seconds"], summary["cache_hits"]) == (2, 2.0, 2)
    assert summary["gate_mean_item_steps"] == pytest.approx((2 * 0.5 + 6 * 0.7) / 8)
    assert summary["gate_mean_word_steps"] == pytest.approx(0.2)
    assert summary["teacher_wait_fraction"] == pytest.approx(0.25)
    # Of each line a byte asked and one answered, for eight positions.
    assert summary["wire_bytes_per_position"] == pytest.approx(4 / 16)


def test_a_dialogue_teacher_that_is_not_used_has_no_mean() -> None:
    totals = RunTotals()
    totals.add(step(None, None, number=1))
    summary = totals.summary()
    assert summary["gate_mean_item_steps"] is None
    assert summary["gate_mean_word_steps"] is None
    assert summary["teacher_requests"] == 1
