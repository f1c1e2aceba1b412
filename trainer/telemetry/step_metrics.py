"""Every step metric, declared once: key in metrics.jsonl, meaning, and the sums that form it.

The log, TensorBoard, the "end" line, what readers of a log require and the tables of
docs/training.md are derived from here. A new metric is one entry, and its sums where they are
counted: trainer/loss/gate_statistics.py, closeness.py, step_sums.py or a counter of the client.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.loss.gate_statistics import HISTOGRAM_BINS
from trainer.loss.watched import CLOSE_KINDS, CLOSE_STEPS, FIRST
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.counters import declarations

Value = int | float | list[int] | None
"""What JSON holds of a metric."""
STEP_KINDS = ("item", "word")
CLIENT = "client_"
"""Before the name of a sum that is a counter of the teacher client."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One key of a line of metrics.jsonl."""

    name: str
    text: str
    """Meaning and unit, for docs/training.md."""
    needs: tuple[str, ...]
    """Names of the sums, in the order in which `form` takes them."""
    form: Callable[..., Value]
    report: str = ""
    """Dotted key in report.json; empty: not there."""

    def value(self, sums: Mapping[str, Any]) -> Value:
        """What is logged."""
        return self.form(*(sums[name] for name in self.needs))


def mean(total: float, count: float) -> float | None:
    """None where nothing is counted, or the total is not finite."""
    return total / count if count and math.isfinite(total) else None


def metric(
    name: str, text: str, form: Callable[..., Value], *needs: str, report: str = ""
) -> Metric:
    """An entry of a table of metrics."""
    return Metric(name=name, text=text, needs=needs, form=form, report=report)


def _as_it_is(value: Value) -> Value:
    return value


def _ratio(total: float, count: float) -> float:
    return total / count


def _padding(tokens: float, slots: float) -> float:
    return 1.0 - tokens / slots


def _mean_of_histogram(total: float, counts: Sequence[float]) -> float | None:
    return mean(total, sum(counts))


def _integers(counts: Sequence[float]) -> list[int]:
    return [int(count) for count in counts]


def _per_position(name: str, text: str, of: str) -> Metric:
    return metric(name, text, _ratio, of, "positions")


def _per_row(name: str, text: str) -> Metric:
    """A mean over recommendation rows; null where none was needed."""
    return metric(name, f"{text}; null if there is none", mean, name, "recommendation_rows")


def _of_closeness(kind: str) -> list[Metric]:
    """How close the student is to a kind of teachers; null where none teaches."""
    first_ids = {
        "agreed": ("agreement", "same first id"),
        "shared": ("overlap", f"overlap of first {FIRST}"),
    }
    return [
        metric(
            f"{kind}_student_mass",
            f"mass that the student gives to what {kind} rows kept; null if none",
            mean,
            f"{kind}_student_mass",
            f"{kind}_learning",
        ),
        *(
            metric(
                f"{kind}_{name}_{step}_steps",
                f"{kind} rows, watched {step} steps: {text}; null if none",
                mean,
                f"{kind}_{of}_{step}",
                f"{kind}_watched_{step}",
            )
            for of, (name, text) in first_ids.items()
            for step in CLOSE_STEPS
        ),
    ]


def _of_client() -> list[Metric]:
    """The client's counters during a step, as they are declared."""
    zero = ClientCounters()
    return [
        metric(it.log, it.text, type(getattr(zero, name)), f"{CLIENT}{name}")
        for name, it in declarations(ClientCounters).items()
        if it.log
    ]


STEP_METRICS = (
    metric("step", "number of the step, from 1", _as_it_is, "step"),
    metric("loss", "mean over responses, in nats", _ratio, "loss", "examples"),
    _per_position("nll", "of the gold token, mean over positions, in nats", "nll"),
    metric("learning_rate", "of this step", _as_it_is, "learning_rate"),
    metric(
        "grad_norm",
        "before clipping; null at ZeRO stage 0, which does not report it",
        _as_it_is,
        "grad_norm",
    ),
    metric("loss_scale", "of fp16, for the next step; null without fp16", _as_it_is, "loss_scale"),
    metric("skipped_steps", "1 if this step overflowed and was skipped", int, "was_skipped"),
    metric(
        "step_s",
        "seconds, with collating and requests, without writing metrics and checkpoints",
        _as_it_is,
        "step_s",
    ),
    metric(
        "tokens_per_s", "input tokens of all ranks, without padding", _ratio, "tokens", "step_s"
    ),
    metric("responses_per_s", "responses of all ranks", _ratio, "examples", "step_s"),
    metric("positions", "response positions of all ranks", int, "positions"),
    metric(
        "tokens_per_position",
        "input tokens of the student for each response position, without padding",
        _ratio,
        "tokens",
        "positions",
    ),
    metric("padding", "share of the input slots that is padding", _padding, "tokens", "slots"),
    metric(
        "teacher_wait_s",
        "seconds of waiting for targets, mean over ranks; null without teachers",
        mean,
        "wait_s",
        "ranks_with_teachers",
    ),
)
"""In every line."""

TEACHER_METRICS = (
    *_of_client(),
    metric("gamma", "weight of the teachers' targets at this step", _as_it_is, "gamma"),
    metric("temperature", "of the teachers' targets at this step", _as_it_is, "temperature"),
    metric(
        "teacher_tokens_per_position",
        "tokens that the dialogue teacher read for each row; null if all came from the cache",
        mean,
        f"{CLIENT}teacher_tokens",
        f"{CLIENT}positions",
    ),
    _per_position("kept_mass", "mass that the dialogue rows kept, mean over rows", "kept_mass"),
    _per_row("recommendation_kept_mass", "mass that the recommendation rows kept, mean over rows"),
    _per_position(
        "dialogue_entropy",
        "of the dialogue rows, mean in nats, the tail as one class: a lower bound",
        "dialogue_entropy",
    ),
    _per_row("recommendation_entropy", "of the recommendation rows, likewise"),
    _per_position(
        "recommended_share", "share of the positions at which lambda is 1", "num_recommended"
    ),
    *(
        metric(
            f"lambda_{it}_steps", f"mean lambda at {it} steps", mean, f"gate_{it}", f"{it}_steps"
        )
        for it in STEP_KINDS
    ),
    *(it for kind in CLOSE_KINDS for it in _of_closeness(kind)),
    metric("num_item_steps", "positions whose gold token is an item", int, "item_steps"),
    metric("num_word_steps", "all other positions", int, "word_steps"),
    *(
        metric(
            f"gate_{it}_steps",
            f"mean item mass at {it} steps; null without a dialogue teacher",
            _mean_of_histogram,
            f"mass_{it}",
            f"histogram_{it}",
        )
        for it in STEP_KINDS
    ),
    *(
        metric(
            f"gate_histogram_{it}_steps",
            f"counts of the item mass at {it} steps, in {HISTOGRAM_BINS} bins over [0, 1]",
            _integers,
            f"histogram_{it}",
        )
        for it in STEP_KINDS
    ),
)
"""Only in lines of runs with teachers; 0 or null of a kind of teacher that is not used."""

TAUGHT_METRICS = tuple(
    it
    for it in (*STEP_METRICS, *TEACHER_METRICS)
    if it.name in ("nll", "recommended_share")
    or it.name.endswith(("kept_mass", "_entropy", "_student_mass"))
    or (it.name.endswith("_steps") and it.form in (mean, _mean_of_histogram))
)
"""What is taught and learnt: of interest at the end of a run (RunHistory.at_end)."""


def metrics_table(metrics: Sequence[Metric]) -> str:
    """The table of docs/training.md, in Markdown."""
    return "\n".join(
        ["| key | |", "|---|---|", *(f"| `{it.name}` | {it.text} |" for it in metrics)]
    )
