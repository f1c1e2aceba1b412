"""The table of the benchmark `scaling`, drawn: measured marks on the model's lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cluster.bench.result import Row
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.grid import STRONG, WEAK
from trainer.evaluation.plots import write_figure

# Okabe and Ito's palette, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_scaling(rows: Sequence[Row], lengths: Lengths, path: Path) -> None:
    """Tokens/s by students, a line per number of replicas; the wait; strong scaling."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    speed, wait, strong = figure.subplots(1, 3)
    weak = [row for row in rows if row["scaling"] == WEAK]
    for colour, teachers in zip(
        COLOURS, sorted({int(it["teachers"]) for it in weak}), strict=False
    ):
        cells = [row for row in weak if row["teachers"] == teachers]
        xs = [int(row["students"]) for row in cells]
        label = f"{teachers} replica{'s' if teachers > 1 else ''}"
        speed.plot(xs, _column(cells, "model_tokens_per_s"), "--", color=colour)
        speed.plot(xs, _column(cells, "tokens_per_s"), "o", color=colour, label=label)
        wait.plot(xs, _column(cells, "model_exposed_wait"), "--", color=colour)
        wait.plot(xs, _column(cells, "exposed_wait"), "o", color=colour, label=label)
    speed.set_ylabel("tokens/s of all students")
    wait.set_ylabel("exposed wait, share of a step")
    wait.set_ylim(-0.02, 1)
    cells = [row for row in rows if row["scaling"] == STRONG]
    xs = [int(row["students"]) for row in cells]
    strong.plot(xs, _column(cells, "model_tokens_per_s"), "--", color=COLOURS[0])
    strong.plot(xs, _column(cells, "tokens_per_s"), "o", color=COLOURS[0], label="one batch")
    strong.set_ylabel("tokens/s, the batch divided among the students")
    for axis in (speed, wait, strong):
        axis.set_xlabel("hosts of students")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(
        f"measured (marks) and modelled (lines): a step of {lengths.step_s:.2f} s, which takes "
        f"{lengths.load:.2f} of a replica's time"
    )
    write_figure(figure, path)


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows]
