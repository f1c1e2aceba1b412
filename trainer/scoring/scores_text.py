"""Scores of systems as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.common.tables import fitted
from trainer.scoring.comparison import Comparison, ScoredSystem
from trainer.scoring.intervals import intervals
from trainer.scoring.metrics import METRICS, Metric, scores
from trainer.scoring.paired import Paired

TITLES = {
    ("sigir26", "all"): "SIGIR '26 view, all films",
    ("sigir26", "new"): "SIGIR '26 view, new films only",
    ("paper", "all"): "Paper's view, all films",
    ("paper", "new"): "Paper's view, new films only",
}
DETAILS = (
    *("truncated_", "conventional_rer_at", "conventional_prr_at"),
    *(f"{name}_{it}" for name in ("related", "random_related") for it in ("rer", "prr")),
)
"""How metrics begin that people are not shown; --json has all."""
COMPARED = ("f1_at_1", "f1_at_10", "f1_at_50", "recall_at_10", "perplexity", "dist_4")
"""Metrics of which people are shown the paired test; --json has all."""


def comparison_text(comparison: Comparison, width: int | None) -> str:
    """All tables and notes; `width` as `trainer.common.tables.fitted` takes it."""
    parts = [
        table
        for (view, variant), title in TITLES.items()
        for table in _score_table(comparison.systems, view, variant, title, width)
    ]
    parts += _latency_table(comparison.systems, width)
    parts += _paired_table(comparison, width)
    notes = [note for system in comparison.systems for note in system.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def number(value: float | None) -> str:
    """A score for people; "-" for none."""
    if value is None:
        return "-"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _score_table(
    systems: Sequence[ScoredSystem], view: str, variant: str, title: str, width: int | None
) -> list[str]:
    shown = [system for system in systems if view in system.views]
    columns = {it.name: _cells(it, view, variant) for it in shown}
    rows = [
        [metric.title, *(cells.get(metric.name, "-") for cells in columns.values())]
        for metric in METRICS
        if not metric.name.startswith(DETAILS)
        if any(metric.name in cells for cells in columns.values())
    ]
    if not rows:
        return []
    names = list(columns)
    return [fitted(rows, ["metric", *names], right=names, title=title, width=width)]


def _cells(system: ScoredSystem, view: str, variant: str) -> dict[str, str]:
    sums = system.views[view][variant]
    ends = intervals(sums)
    return {
        metric.name: _cell(metric, value, ends.get(metric.name))
        for metric in METRICS
        for name, value in scores(sums).items()
        if name == metric.name
    }


def _cell(metric: Metric, value: float | None, ends: tuple[float, float] | None) -> str:
    if value is not None and metric.is_count:
        return f"{value:,.0f}"
    if ends is None:
        return number(value)
    return f"{number(value)} [{number(ends[0])}, {number(ends[1])}]"


def _latency_table(systems: Sequence[ScoredSystem], width: int | None) -> list[str]:
    """Median and 90th percentile, of the systems whose card has them."""
    rows = [
        [it.name, number(it.card.latency_ms_median), number(it.card.latency_ms_p90),
         it.card.machine or "-"]
        for it in systems
        if it.card.latency_ms_median is not None
    ]  # fmt: skip
    columns = ("system", "median ms", "p90 ms", "machine")
    title = "Latency of a token, batch size 1"
    return [fitted(rows, columns, right=columns[1:3], title=title, width=width)] if rows else []


def _paired_table(comparison: Comparison, width: int | None) -> list[str]:
    rows = [
        [name, TITLES[view, variant], metric.title, *_paired_cells(found[metric.name])]
        for name, views in comparison.paired.items()
        for view, variants in views.items()
        for variant, found in variants.items()
        for metric in METRICS
        if metric.name in COMPARED and metric.name in found
    ]
    columns = ("system", "view", "metric", "ratio", "difference", "p")
    title = f"Against {comparison.systems[0].name}, paired by dialogue"
    return [fitted(rows, columns, right=columns[3:], title=title, width=width)] if rows else []


def _paired_cells(found: Paired) -> tuple[str, str, str]:
    quotient = f"{number(found.ratio)} [{number(found.ratio_low)}, {number(found.ratio_high)}]"
    ends = f"[{number(found.difference_low)}, {number(found.difference_high)}]"
    return (
        "-" if found.ratio is None else quotient,
        f"{number(found.difference)} {ends}",
        f"{found.p:.3f}",
    )
