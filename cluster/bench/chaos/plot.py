"""Throughput over time, a panel for each scenario with its fault; seconds when things freeze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.bench.chaos.evidence import WINDOW_S, speed
from cluster.bench.chaos.trial import UNDISTURBED, Trial
from cluster.bench.result import Row
from trainer.evaluation.plots import (
    STUDENT_COLOUR,
    TEACHER_COLOUR,
    UNDISTILLED_COLOUR,
    write_figure,
)

NUM_COLUMNS = 3
GRID_S = 0.25
FROZEN = ("frozen_directory_s", "frozen_replica_s")
FROZEN_AT_MOST_S = 20.0
COLOURS = {"scored": STUDENT_COLOUR, "replayed": TEACHER_COLOUR}


def draw_trials(trials: Sequence[Trial], shipped: Sequence[Row], path: Path) -> None:
    """Write the PNG."""
    names = list(dict.fromkeys(trial.name for trial in trials))
    num_rows = math.ceil((len(names) + 1) / NUM_COLUMNS)
    figure = Figure(figsize=(4 * NUM_COLUMNS, 2.4 * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).flat)
    for name, axis in zip(names, axes, strict=False):
        for trial in trials:
            if trial.name == name:
                _draw(axis, trial)
        axis.set_title(name, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.set(xlabel="seconds from the fault", ylabel="positions/s")
    if names:
        axes[0].legend(frameon=False, fontsize=8)
    _draw_shipped(axes[len(names)], shipped)
    for axis in axes[len(names) + 1 :]:
        axis.set_visible(False)
    write_figure(figure, path)


def _draw_shipped(axis: Axes, rows: Sequence[Row]) -> None:
    """Seconds of every run until the student had what it lacked, beside what is asked for."""
    for height, name in enumerate(FROZEN):
        seconds = [float(row[name]) for row in rows if name in row]
        axis.plot(seconds, [height] * len(seconds), "o", color=TEACHER_COLOUR)
    axis.axvline(FROZEN_AT_MOST_S, color=UNDISTILLED_COLOUR, lw=1)
    axis.set_yticks(range(len(FROZEN)), [name.split("_")[1] for name in FROZEN])
    axis.set(xlabel="seconds from the freeze", xlim=(0, None), ylim=(-0.5, len(FROZEN) - 0.5))
    axis.set_title("frozen, shipped settings; line: asked for", fontsize=9)
    axis.grid(alpha=0.3)


def _draw(axis: Axes, trial: Trial) -> None:
    hand_outs = trial.witnessed.handed_out
    times = np.arange(hand_outs[0].at_s + WINDOW_S, hand_outs[-1].at_s, GRID_S)
    speeds = [speed(hand_outs, at_s - WINDOW_S, at_s) for at_s in times]
    colour = COLOURS[trial.answers]
    axis.plot(times - trial.fault_s, speeds, color=colour, lw=1, label=f"answers {trial.answers}")
    if trial.name != UNDISTURBED:
        axis.axvline(0, color=UNDISTILLED_COLOUR, lw=1)
        lasted_s = trial.lifted_s - trial.fault_s
        axis.axvspan(0, lasted_s, color=UNDISTILLED_COLOUR, alpha=0.1, lw=0)
