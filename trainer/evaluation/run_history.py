"""Read the metrics.jsonl of a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.telemetry.run_log import METRICS_NAME

END_KEYS = (
    "steps",
    "seconds",
    "tokens_per_s",
    "teacher_requests",
    "teacher_wait_fraction",
    "wire_bytes_per_position",
    "gate_mean_item_steps",
    "gate_mean_word_steps",
)
STEP_KEYS = ("step", "loss", "nll", "step_s", "teacher_wait_s")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunHistory:
    """The steps of a finished run and its closing figures."""

    folder: Path
    steps: tuple[dict[str, Any], ...]
    end: dict[str, Any]

    @property
    def has_teachers(self) -> bool:
        """Whether teachers were asked (gamma above 0)."""
        return all(step["teacher_wait_s"] is not None for step in self.steps)

    def column(self, key: str) -> list[float]:
        """One value per step; ValueError where a step lacks it."""
        values = [step.get(key) for step in self.steps]
        if None in values:
            raise ValueError(
                f"{self.folder / METRICS_NAME} must have {key} in every step, got none in step "
                f"{self.steps[values.index(None)]['step']}."
            )
        return [float(value) for value in values if value is not None]

    def histogram(self, key: str) -> list[int]:
        """Counts of a histogram key, summed over the steps that have it."""
        rows = [step[key] for step in self.steps if key in step]
        if not rows:
            raise ValueError(f"{self.folder / METRICS_NAME} must have {key}, got it in no step.")
        return [sum(counts) for counts in zip(*rows, strict=True)]


def read_history(folder: Path) -> RunHistory:
    """The history of a finished run.

    Raises:
        FileNotFoundError: if there is no metrics.jsonl.
        ValueError: naming file and line, if it is torn, lacks keys, or the run has not ended.
    """
    path = folder / METRICS_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} must be a run directory, got no {METRICS_NAME} there. "
            "Give the output folder of a finished run."
        )
    steps: list[dict[str, Any]] = []
    end: dict[str, Any] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: the line must be JSON, got {error}.") from error
        if "event" not in record:
            _require(record, STEP_KEYS, f"{path}:{number}")
            steps.append(record)
        elif record["event"] == "end":
            _require(record, END_KEYS, f"{path}:{number}")
            end = record
    if end is None or not steps:
        raise ValueError(
            f"{path} must tell of a finished run, got {len(steps)} steps and no end. "
            "Let the run finish; it resumes from its newest checkpoint."
        )
    return RunHistory(folder=folder, steps=tuple(steps), end=end)


def _require(record: dict[str, Any], keys: tuple[str, ...], place: str) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"{place}: the line must have {', '.join(keys)}, got no {missing[0]}.")
