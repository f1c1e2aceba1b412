"""PNGs of the ablation, with matplotlib's Agg canvas: no display, no global figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, ScalarFormatter

from trainer.ablation.arm_results import ArmResults
from trainer.ablation.arms import TABLES
from trainer.ablation.curves import ALONG, TRADED, Along, Curve, curves, traded
from trainer.evaluation.plots import write_figure
from trainer.scoring.metrics import METRICS

LIKELIHOOD = "perplexity"
PRICES = ("dist_4", "words_per_response", LIKELIHOOD)
GAIN = "f1_at_10"
MARKERS = "osD^v"
DODGE = 0.06
"""Between two lines at one value, of a doubling."""
TITLES = {metric.name: metric.title for metric in METRICS}


def draw_figures(results: Mapping[str, Sequence[ArmResults]], folder: Path) -> dict[str, list[str]]:
    """Write the figures of the tables that have cells; name of a table -> names of its files."""
    drawn: dict[str, list[str]] = {name: [] for name in results}
    for along in ALONG:
        if results.get(along.table):
            figure = along_figure(along, results[along.table])
            drawn[along.table].append(_write(figure, folder, along.table))
    priced = [name for name in TRADED if results.get(name)]
    if priced:
        drawn[priced[-1]].append(_write(price_figure(results), folder, "price"))
    return drawn


def _write(figure: Figure, folder: Path, name: str) -> str:
    path = folder / f"ablation-{name}.png"
    write_figure(figure, path)
    return path.name


def along_figure(along: Along, results: Sequence[ArmResults]) -> Figure:
    """Scores along a setting, a panel for each metric."""
    figure = Figure(figsize=(4.2 * len(along.metrics), 3.8), layout="constrained")
    panels = figure.subplots(1, len(along.metrics), squeeze=False)[0]
    for axis, metric in zip(panels, along.metrics, strict=True):
        lines = curves(along, results, metric)
        for number, (line, marker) in enumerate(zip(lines, MARKERS, strict=False)):
            # Beside each other, so that intervals at one value can be told apart.
            beside = DODGE * (number - (len(lines) - 1) / 2)
            _draw(axis, line, marker, factor=2.0**beside if along.doubles else 1.0)
        if along.doubles:
            axis.set_xscale("log", base=2)
            ticks = sorted({it.x for line in lines for it in line.points})
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_major_formatter(ScalarFormatter())
        _finish(axis, along.title, TITLES[metric])
    return figure


def price_figure(results: Mapping[str, Sequence[ArmResults]]) -> Figure:
    """What films are won for: F1@10 over the variety, the length and the likelihood of words."""
    figure = Figure(figsize=(4.8 * len(PRICES), 4.2), layout="constrained")
    for axis, price in zip(figure.subplots(1, len(PRICES)), PRICES, strict=True):
        for number, name in enumerate(TRADED):
            if price == LIKELIHOOD and name == "decoding":
                # However a student's words are chosen, gold ones are as likely.
                continue
            for line in traded(TABLES[name], results.get(name, ()), price, GAIN):
                _draw(axis, line, MARKERS[number])
        _finish(axis, TITLES[price], TITLES[GAIN])
    return figure


def _draw(axis: Axes, line: Curve, marker: str, *, factor: float = 1.0) -> None:
    """One line with its intervals, each x times a factor."""
    below = [_length(it.mean.mean, it.mean.low) for it in line.points]
    above = [_length(it.mean.high, it.mean.mean) for it in line.points]
    axis.errorbar(
        [factor * it.x for it in line.points],
        [it.mean.mean for it in line.points],
        yerr=[below, above],
        marker=marker,
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label=line.name,
    )
    for it in line.points:
        if it.label:
            axis.annotate(
                it.label,
                (it.x, it.mean.mean),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
            )


def _length(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else max(0.0, high - low)


def _finish(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize="small")
