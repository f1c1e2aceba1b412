"""PNGs of the benchmarks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cluster.bench.result import Row
from trainer.atomic import write_bytes

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {"bucket": "#0072B2", "drop": "#D55E00", "renormalise": "#009E73", "sampled": "#CC79A7"}


def draw_wire(rows: Sequence[Row], path: Path) -> None:
    """Bytes per position against the error of dL/dlogits, per student and treatment of the tail."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, student in zip(figure.subplots(1, 2, sharey=True), ("near", "far"), strict=True):
        for tail, colour in COLOURS.items():
            points = [row for row in rows if (row["student"], row["tail"]) == (student, tail)]
            xs = [float(row["bytes_per_position"]) for row in points]
            ys = [float(row["rel_error"]) for row in points]
            axis.plot(xs, ys, marker="o", color=colour, label=tail)
        for row in rows:
            if (row["student"], row["tail"]) == (student, "bucket"):
                at = (float(row["bytes_per_position"]), float(row["rel_error"]))
                axis.annotate(f"k={row['k']}", at, textcoords="offset points", xytext=(0, -14))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("bytes per position on the wire (8-bit values)")
        axis.set_title(f"student {student} the teacher")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.axes[0].set_ylabel("relative error of dL/dlogits")
    write_png(figure, path)


def write_png(figure: Figure, path: Path) -> None:
    """The figure as a file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
