"""Steps over time, events marked: the students stand still, and go on."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from cluster.proof.report import Proof
from trainer.evaluation.plots import STUDENT_COLOUR, TEACHER_COLOUR, write_figure

COLOURS = (STUDENT_COLOUR, TEACHER_COLOUR)
EVENT_COLOUR = "#D55E00"


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
        axis.axvline(event.from_s, color=EVENT_COLOUR, lw=1)
        top = (event.from_s, 1.01)
        axis.annotate(
            event.text,
            top,
            xycoords=("data", "axes fraction"),
            rotation=35,
            fontsize=8,
            ha="left",
            va="bottom",
        )
    axis.set(xlabel="seconds", ylabel="steps", ylim=(0, None), xlim=(0, None))
    axis.legend(frameon=False, loc="upper left")
    axis.grid(alpha=0.3)
    figure.supxlabel(list(proof.lines())[-1], fontsize=7, family="monospace")
    write_figure(figure, path)
