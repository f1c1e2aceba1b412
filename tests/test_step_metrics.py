from __future__ import annotations

from typing import Any

import pytest

from trainer.step_metrics import CACHE, RunTotals


def step(mean_item: float | None, mean_word: float | None, *, number: int) -> dict[str, Any]:
    """A line of metrics.jsonl with 2 item steps and 6 word steps."""
    counts = dict.fromkeys(("teacher_requests", "teacher_resends", "wire_bytes", *CACHE), 1)
    return counts | {
        "step": number,
        "step_s": 1.0,
        "tokens_per_s": 100.0,
        "teacher_wait_s": 0.25,
        "skipped_steps": 0,
        "wire_positions": 8,
        "num_item_steps": 2,
        "num_word_steps": 6,
        "gate_item_steps": mean_item,
        "gate_word_steps": mean_word,
    }


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
