"""Steps over time, events marked: the students stand still, and go on."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.proof.report import Proof
from trainer.evaluation.plots import STUDENT_COLOUR, TEACHER_COLOUR, write_figure

COLOURS = (STUDENT_COLOUR, TEACHER_COLOUR)
EVENT_COLOUR, QUIET_COLOUR = "#D55E00", "#999999"


def draw_proof(proof: Proof, path: Path) -> None:
    """Write the PNG."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    axis = figure.subplots()
    for at, (name, seen) in enumerate(proof.seen.items()):
        times, steps = [it.at_s for it in seen], [it.step for it in seen]
        colour, width = COLOURS[at % len(COLOURS)], 3 - 1.5 * at
        axis.plot(times, steps, color=colour, lw=width, label=name, drawstyle="steps-post")
    for event in proof.events:
        axis.axvspan(event.from_s, event.done_s, color=EVENT_COLOUR, alpha=0.12, lw=0)
        _mark(axis, event.from_s, event.text, EVENT_COLOUR)
    # The students are as quick from here on as they can be.
    _mark(axis, max(it.until_s for it in proof.events), "no pace any more", QUIET_COLOUR)
    axis.set(xlabel="seconds", ylabel="steps", ylim=(0, None), xlim=(0, None))
    axis.legend(frameon=False, loc="center left")
    axis.grid(alpha=0.3)
    figure.supxlabel(list(proof.lines())[-1], fontsize=7, family="monospace")
    write_figure(figure, path)


def _mark(axis: Axes, at_s: float, text: str, colour: str) -> None:
    """A line through a moment, and what it is above."""
    axis.axvline(at_s, color=colour, lw=1)
    axis.annotate(
        text,
        (at_s, 1.01),
        xycoords=("data", "axes fraction"),
        rotation=35,
        fontsize=8,
        ha="left",
        va="bottom",
    )
