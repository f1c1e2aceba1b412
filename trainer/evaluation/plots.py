"""PNGs of a report, with matplotlib's Agg canvas: no display, no global figure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from trainer.common.atomic import write_bytes
from trainer.evaluation.run_history import RunHistory
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.loss.watched import CLOSE_KINDS, CLOSE_STEPS, FIRST

STUDENT_COLOUR, UNDISTILLED_COLOUR, TEACHER_COLOUR = "#0072B2", "#D55E00", "#009E73"
"""Okabe and Ito's palette, told apart by colour-blind readers too."""
MAX_WINDOW = 50


def draw_plots(
    student: RunHistory, undistilled: RunHistory, folder: Path, *, eta: float | None
) -> list[str]:
    """Write loss.png, and if teachers were asked gate.png, teacher_wait.png and closeness.png.

    Args:
        eta: threshold of the hard gate; None: the gate is another one.

    Returns:
        The names of the files written.
    """
    figures = {"loss.png": loss_figure(student, undistilled)}
    if student.has_teachers:
        figures["gate.png"] = gate_figure(student, eta)
        figures["teacher_wait.png"] = wait_figure(student)
        figures["closeness.png"] = closeness_figure(student)
    for name, figure in figures.items():
        write_figure(figure, folder / name)
    return list(figures)


def loss_figure(student: RunHistory, undistilled: RunHistory) -> Figure:
    """What each student minimised, and the NLL of gold tokens, which compares them."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key, label in (
        (axes[0], "loss", "what each minimised: two losses, not to be compared"),
        (axes[1], "nll", "NLL of gold tokens, which compares them"),
    ):
        for history, name, colour in (
            (student, "distilled student", STUDENT_COLOUR),
            (undistilled, "undistilled student", UNDISTILLED_COLOUR),
        ):
            values = history.column(key)
            _draw_smoothed(axis, history.column("step"), values, name, colour)
            if key == "nll" and history.valid:
                steps, losses = zip(*((it["step"], it["nll"]) for it in history.valid), strict=True)
                axis.plot(steps, losses, "o--", color=colour, ms=3, lw=0.8, label=f"{name}, valid")
        # Most of a run happens in its last few tenths of a nat.
        axis.set_yscale("log" if axis.dataLim.ymin > 0 else "linear")
        axis.yaxis.set_minor_formatter(ScalarFormatter())
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.set_title(label, fontsize="medium")
        axis.set_ylabel("nats")
        _finish(axis)
    return figure


def gate_figure(student: RunHistory, eta: float | None) -> Figure:
    """How the dialogue teacher's item mass, the gate's input, is distributed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for key, name, colour in (
        ("gate_histogram_word_steps", "word steps", UNDISTILLED_COLOUR),
        ("gate_histogram_item_steps", "item steps", STUDENT_COLOUR),
    ):
        counts = np.array(student.histogram(key), float)
        edges = np.linspace(0.0, 1.0, len(counts) + 1)
        axis.stairs(counts / max(counts.sum(), 1.0), edges, fill=True, alpha=0.5, color=colour)
        axis.stairs(counts / max(counts.sum(), 1.0), edges, color=colour, label=name)
    if eta is not None:
        axis.axvline(eta, color="grey", ls="--", lw=0.8, label=f"eta {eta:g}: items from here")
    axis.set_xlabel("item mass of the dialogue teacher")
    axis.set_ylabel("share of steps")
    axis.legend(frameon=False)
    return figure


def wait_figure(student: RunHistory) -> Figure:
    """Seconds of each step, and those of them spent waiting for teachers."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    steps = student.column("step")
    for key, name, colour in (
        ("step_s", "whole step", STUDENT_COLOUR),
        ("teacher_wait_s", "waiting", TEACHER_COLOUR),
    ):
        _draw_smoothed(axis, steps, student.column(key), name, colour)
    axis.set_ylabel("seconds per step")
    axis.set_ylim(bottom=0)
    _finish(axis)
    return figure


def closeness_figure(student: RunHistory) -> Figure:
    """How close the student comes to each kind of teachers, step by step."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axis, (title, keys) in zip(figure.subplots(1, 3), _closeness_panels().items(), strict=True):
        for key, name, colour, line in keys:
            points = [(it["step"], it[key]) for it in student.steps if it.get(key) is not None]
            if points:
                steps, values = zip(*points, strict=True)
                curve = smoothed(list(values), max(1, len(values) // 10))
                axis.plot(steps, curve, color=colour, ls=line, label=name)
        axis.set_title(title, fontsize="medium")
        axis.set_ylim(0.0, 1.0)
        _finish(axis)
    return figure


def _closeness_panels() -> dict[str, list[tuple[str, str, str, str]]]:
    """Title -> key, label, colour and line of each curve."""
    colours = {DIALOGUE: TEACHER_COLOUR, RECOMMENDATION: STUDENT_COLOUR}
    lines = {"item": "-", "word": "--"}

    def of_steps(name: str) -> list[tuple[str, str, str, str]]:
        return [
            (f"{kind}_{name}_{step}_steps", f"{kind}, {step} steps", colours[kind], lines[step])
            for kind in CLOSE_KINDS
            for step in CLOSE_STEPS
        ]

    kept = {DIALOGUE: "kept_mass", RECOMMENDATION: "recommendation_kept_mass"}
    masses = [
        curve
        for kind in CLOSE_KINDS
        for curve in (
            (f"{kind}_student_mass", f"student's, {kind}", colours[kind], "-"),
            (kept[kind], f"teacher's own, {kind}", colours[kind], ":"),
        )
    ]
    return {
        "mass on what the teachers' rows keep": masses,
        "the same first id": of_steps("agreement"),
        f"overlap of the first {FIRST} ids": of_steps("overlap"),
    }


def draw_calibration(teachers: Mapping[str, Any], path: Path) -> None:
    """Write a plot of how often an item came, against the item mass that was given to it."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="calibrated")
    for name, scores in teachers.items():
        rows = scores["calibration"]
        axis.plot(
            [row["mean_mass"] for row in rows],
            [row["share_of_items"] for row in rows],
            marker="o",
            label=Path(name).name,
        )
    axis.set_xlabel("item mass of the dialogue teacher, mean of a tenth")
    axis.set_ylabel("share of steps where an item came")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    write_figure(figure, path)


def smoothed(values: list[float], window: int) -> np.ndarray:
    """Mean of the values around each, as many before as after; float64 of the same length.

    Near the start, where a loss falls, there are fewer on both sides, so that the curve lies in the
    data and not beside it; near the end there are fewer after it.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    before = np.minimum(places, window // 2)
    after = np.minimum(before, places[::-1])
    return (sums[places + after + 1] - sums[places - before]) / (before + after + 1)


def _draw_smoothed(
    axis: Axes, steps: list[float], values: list[float], name: str, colour: str
) -> None:
    window = min(MAX_WINDOW, max(1, len(values) // 10))
    axis.plot(steps, values, color=colour, alpha=0.2, lw=0.8)
    label = f"{name} (mean of {2 * (window // 2) + 1})"
    axis.plot(steps, smoothed(values, window), color=colour, label=label)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_bytes(path, content.getvalue())


def _finish(axis: Axes) -> None:
    axis.set_xlabel("optimiser step")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False)
