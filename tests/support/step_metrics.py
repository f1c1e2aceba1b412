"""Lines of metrics.jsonl."""

from __future__ import annotations

from typing import Any

from trainer.telemetry.step_metrics import TEACHER_METRICS


def step(mean_item: float | None, mean_word: float | None, *, number: int) -> dict[str, Any]:
    """A line of metrics.jsonl with 2 item steps and 6 word steps."""
    return dict.fromkeys((it.name for it in TEACHER_METRICS), 1) | {
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
