"""Throughput over time, one panel for each scenario, with the fault marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.bench.chaos.evidence import WINDOW_S, speed
from cluster.bench.chaos.trial import Trial
from trainer.evaluation.plots import (
    STUDENT_COLOUR,
    TEACHER_COLOUR,
    UNDISTILLED_COLOUR,
    write_figure,
)

NUM_COLUMNS = 3
GRID_S = 0.25
COLOURS = {"scored": STUDENT_COLOUR, "replayed": TEACHER_COLOUR}


def draw_trials(trials: Sequence[Trial], path: Path) -> None:
    """Write the PNG."""
    names = list(dict.fromkeys(trial.name for trial in trials))
    num_rows = math.ceil(len(names) / NUM_COLUMNS)
    figure = Figure(figsize=(4 * NUM_COLUMNS, 2.4 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False)
    for name, axis in zip(names, grid.flat, strict=False):
        for trial in trials:
            if trial.name == name:
                _draw(axis, trial)
        axis.set_title(name, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for axis in grid.flat[len(names) :]:
        axis.set_visible(False)
    for axis in grid.flat[: len(names)][-NUM_COLUMNS:]:
        axis.set_xlabel("seconds from the fault")
    for axis in grid[:, 0]:
        axis.set_ylabel("positions/s")
    grid[0, 0].legend(frameon=False, fontsize=8)
    write_figure(figure, path)


def _draw(axis: Axes, trial: Trial) -> None:
    hand_outs = trial.witnessed.handed_out
    times = np.arange(hand_outs[0].at_s + WINDOW_S, hand_outs[-1].at_s, GRID_S)
    speeds = [speed(hand_outs, at_s - WINDOW_S, at_s) for at_s in times]
    colour = COLOURS[trial.answers]
    axis.plot(times - trial.fault_s, speeds, color=colour, lw=1, label=f"answers {trial.answers}")
    if trial.name != "undisturbed":
        axis.axvline(0, color=UNDISTILLED_COLOUR, lw=1)
        lasted_s = trial.lifted_s - trial.fault_s
        axis.axvspan(0, lasted_s, color=UNDISTILLED_COLOUR, alpha=0.1, lw=0)
