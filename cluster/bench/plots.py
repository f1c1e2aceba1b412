"""PNGs of the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cluster.bench.result import Row
from trainer.evaluation.plots import write_figure

# Okabe and Ito's palette, which colour-blind readers can distinguish.
COLOURS = {"bucket": "#0072B2", "drop": "#D55E00", "renormalise": "#009E73", "sampled": "#CC79A7"}


def draw_wire(rows: Sequence[Row], path: Path) -> None:
    """Bytes of a dialogue row against the error of dL/dlogits, by student and treatment."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, student in zip(figure.subplots(1, 2, sharey=True), ("near", "far"), strict=True):
        for tail, colour in COLOURS.items():
            points = [row for row in rows if (row["student"], row["tail"]) == (student, tail)]
            xs = [float(row["reply_bytes"]) for row in points]
            ys = [float(row["rel_error"]) for row in points]
            axis.plot(xs, ys, marker="o", color=colour, label=tail)
        for row in rows:
            if (row["student"], row["tail"]) == (student, "bucket"):
                at = (float(row["reply_bytes"]), float(row["rel_error"]))
                axis.annotate(f"k={row['k']}", at, textcoords="offset points", xytext=(0, -14))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("bytes of a dialogue reply per position (8-bit values)")
        axis.set_title(f"student {student} the teacher")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.axes[0].set_ylabel("relative error of dL/dlogits")
    write_figure(figure, path)


def draw_loss(times: Sequence[Row], memory: Sequence[Row], path: Path) -> None:
    """Microseconds per position of every arm, and by how much one call raises the memory."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    speed, growth = figure.subplots(1, 2)
    for arm in dict.fromkeys(row["arm"] for row in times):
        of_arm = [row for row in times if row["arm"] == arm]
        xs = [float(row["positions"]) for row in of_arm]
        ys = [1e6 * float(row["seconds"]) / x for row, x in zip(of_arm, xs, strict=True)]
        speed.plot(xs, ys, marker="o", linewidth=3 if arm == "ours" else 1, label=str(arm))
    speed.set_xscale("log", base=2)
    speed.set_ylim(bottom=0)
    speed.set_xlabel("positions")
    speed.set_ylabel("forward and backward, us per position")
    speed.grid(alpha=0.3)
    speed.legend()
    bars = growth.barh(
        [f"{row['arm']}, {row['positions']}" for row in memory],
        [float(row["growth_mb"]) for row in memory],
    )
    growth.bar_label(bars, fmt="%.0f", padding=3)
    growth.invert_yaxis()
    growth.set_xlabel("MB beyond states, weight and gradients")
    write_figure(figure, path)
