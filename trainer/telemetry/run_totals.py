"""The "end" line of metrics.jsonl: sums over the steps of a run, declared as step metrics are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.telemetry.step_metrics import STEP_KINDS, TEACHER_METRICS, mean, metric

Line = Mapping[str, Any]


def _massed(kind: str) -> Callable[[Line], float]:
    """The steps of a line that count in the mean of the item mass."""
    return lambda line: 0 if line.get(f"gate_{kind}_steps") is None else line[f"num_{kind}_steps"]


def _mass(kind: str) -> Callable[[Line], float]:
    return lambda line: (line.get(f"gate_{kind}_steps") or 0.0) * _massed(kind)(line)


def _sum_per_position(sent: float, received: float, positions: float) -> float | None:
    return mean(sent + received, positions)


DERIVED: Mapping[str, Callable[[Line], float]] = {
    "tokens": lambda line: line["tokens_per_s"] * line["step_s"],
    **{f"mass_{kind}": _mass(kind) for kind in STEP_KINDS},
    **{f"massed_{kind}": _massed(kind) for kind in STEP_KINDS},
}
"""What is summed besides keys of a line. Of earlier processes of a run only lines are left."""


RUN_TOTALS = (
    metric("steps", "number of the last step", int, "last_step", report="steps"),
    metric("skipped_steps", "steps that overflowed and were skipped", int, "skipped_steps"),
    metric("seconds", "sum of `step_s`", float, "step_s", report="training_seconds"),
    metric(
        "tokens_per_s",
        "input tokens of all ranks, without padding",
        mean,
        "tokens",
        "step_s",
        report="tokens_per_s",
    ),
    metric(
        "teacher_requests",
        "requests to teachers",
        int,
        "teacher_requests",
        report="teacher.requests",
    ),
    *(
        metric(it.name, it.text, int, it.name)
        for it in TEACHER_METRICS
        if it.name in ("teacher_resends", "teacher_quarantined") or it.name.startswith("cache_")
    ),
    metric(
        "teacher_wait_fraction",
        "share of time waiting for teachers",
        mean,
        "teacher_wait_s",
        "step_s",
        report="teacher.wait_fraction",
    ),
    metric(
        "wire_bytes_per_position",
        "bytes of requests and replies by positions whose targets arrived; null if none",
        _sum_per_position,
        "request_bytes",
        "wire_bytes",
        "wire_positions",
        report="wire.bytes_per_position",
    ),
    *(
        metric(
            f"gate_mean_{it}_steps",
            f"mean item mass at {it} steps; null without a dialogue teacher",
            mean,
            f"mass_{it}",
            f"massed_{it}",
            report=f"gate.mean_{it}_steps",
        )
        for it in STEP_KINDS
    ),
)
"""The "end" line; sums of keys of step metrics, and of DERIVED."""


class RunTotals:
    """Adds up the lines of steps."""

    def __init__(self) -> None:
        self._sums = {name: 0.0 for it in RUN_TOTALS for name in it.needs}

    def add(self, metrics: Line) -> None:
        """Take in one step, from this process or from one before it."""
        for name in self._sums:
            # Keys of teachers are null, or not there, in a run without.
            value = DERIVED[name](metrics) if name in DERIVED else metrics.get(name)
            self._sums[name] += value or 0.0
        self._sums["last_step"] = metrics["step"]

    def summary(self) -> dict[str, Any]:
        """The "end" line: figures of the whole run."""
        return {it.name: it.value(self._sums) for it in RUN_TOTALS}
