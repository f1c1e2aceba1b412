"""Read the metrics.jsonl of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import as_object, parse_json, read_text
from trainer.telemetry.run_log import METRICS_NAME
from trainer.telemetry.run_totals import RUN_TOTALS
from trainer.telemetry.step_metrics import STEP_METRICS, TAUGHT_METRICS, Metric

END_PARTS = 10
"""The last of so many parts of the steps is the end of a run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunHistory:
    """The steps of a finished run and its closing figures."""

    folder: Path
    steps: tuple[dict[str, Any], ...]
    end: dict[str, Any]
    valid: tuple[dict[str, Any], ...] = ()
    """The validations of a run that selects by them."""

    @property
    def report(self) -> dict[str, Any]:
        """The closing figures as report.json nests them."""
        nested: dict[str, Any] = {}
        for metric in RUN_TOTALS:
            group, _, key = metric.report.rpartition(".")
            if metric.report:
                place = nested.setdefault(group, {}) if group else nested
                place[key] = self.end[metric.name]
        return nested

    @property
    def has_teachers(self) -> bool:
        """Whether teachers were asked (gamma above 0)."""
        return all(step["teacher_wait_s"] is not None for step in self.steps)

    @property
    def end_steps(self) -> tuple[dict[str, Any], ...]:
        """The last tenth of the steps; one at least."""
        return self.steps[-max(1, len(self.steps) // END_PARTS) :]

    @property
    def at_end(self) -> dict[str, float | None]:
        """What is taught and learnt (TAUGHT_METRICS): means over `end_steps`.

        Steps at which a metric is null are left out; it is None if all are.
        """
        values = {it.name: [step.get(it.name) for step in self.end_steps] for it in TAUGHT_METRICS}
        return {name: _mean([it for it in of if it is not None]) for name, of in values.items()}

    def column(self, key: str) -> list[float]:
        """One value per step; ValueError where a step lacks it."""
        values = [step.get(key) for step in self.steps]
        if None in values:
            raise InputError(
                f"{self.folder / METRICS_NAME} must have {key} in every step, got none in step "
                f"{self.steps[values.index(None)]['step']}."
            )
        return [float(value) for value in values if value is not None]

    def histogram(self, key: str) -> list[int]:
        """Counts of a histogram key, summed over the steps that have it."""
        rows = [step[key] for step in self.steps if key in step]
        if not rows:
            raise InputError(f"{self.folder / METRICS_NAME} must have {key}, got it in no step.")
        return [sum(counts) for counts in zip(*rows, strict=True)]


def read_history(folder: Path) -> RunHistory:
    """The history of a finished run.

    Raises:
        MissingError: if there is no metrics.jsonl.
        InputError: naming file and line, if it is torn, lacks keys, or the run has not ended.
    """
    path = folder / METRICS_NAME
    if not path.is_file():
        raise MissingError(
            f"{folder} must be a run directory, got no {METRICS_NAME} there. "
            "Give the output folder of a finished run."
        )
    steps: list[dict[str, Any]] = []
    valid: list[dict[str, Any]] = []
    end: dict[str, Any] | None = None
    remedy = "Train again, or bring the file back."
    for number, line in enumerate(read_text(path, remedy=remedy).splitlines(), start=1):
        place = f"{path}:{number}"
        record = as_object(parse_json(line, place, remedy=remedy), place, remedy=remedy)
        if "event" not in record:
            _require(record, STEP_METRICS, f"{path}:{number}")
            steps.append(record)
        elif record["event"] == "valid" and "step" in record and "nll" in record:
            valid.append(record)
        elif record["event"] == "end":
            _require(record, RUN_TOTALS, f"{path}:{number}")
            end = record
    if end is None or not steps:
        raise InputError(
            f"{path} must tell of a finished run, got {len(steps)} steps and no end. "
            "Let the run finish; it resumes from its newest checkpoint."
        )
    return RunHistory(folder=folder, steps=tuple(steps), end=end, valid=tuple(valid))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _require(record: dict[str, Any], metrics: Sequence[Metric], place: str) -> None:
    missing = [it.name for it in metrics if it.name not in record]
    if missing:
        raise InputError(
            f"{place}: the line must have every key that docs/training.md lists, got no "
            f"{missing[0]}. Train again with this version."
        )
