from __future__ import annotations

import pytest

from tests.support.step_metrics import step
from trainer.telemetry.step_metrics import RunTotals


def test_totals_weigh_every_steps_mean_by_its_positions() -> None:
    totals = RunTotals()
    totals.add(step(0.5, 0.1, number=1))
    totals.add(step(0.7, 0.3, number=2) | {"num_item_steps": 6})
    summary = totals.summary()
    assert summary["gate_mean_item_steps"] == pytest.approx((2 * 0.5 + 6 * 0.7) / 8)
    assert summary["gate_mean_word_steps"] == pytest.approx(0.2)
    assert summary["teacher_wait_fraction"] == pytest.approx(0.25)


def test_a_dialogue_teacher_that_was_not_asked_has_no_mean() -> None:
    totals = RunTotals()
    totals.add(step(None, None, number=1))
    summary = totals.summary()
    assert summary["gate_mean_item_steps"] is None
    assert summary["gate_mean_word_steps"] is None
    assert summary["teacher_requests"] == 1
