"""The answer of `python -m trainer.plan`: a table with bars, or one object."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table
from rich.text import Text

from trainer.plan.memory import PARTS
from trainer.plan.shape import StudentSize
from trainer.plan.stages import Line

GIB = 1 << 30
COLOURS = ("blue", "green", "yellow", "magenta", "cyan", "red", "white", "bright_black")
BAR_WIDTH = 60


def to_json(
    student: str, size: StudentSize, arguments: argparse.Namespace, found: list[Line]
) -> dict[str, Any]:
    """The answer as one object; bytes, per device."""
    return {
        "student": student,
        "parameters": size.num_parameters,
        "ranks": arguments.gpus,
        "memory_bytes": arguments.gpu_memory,
        "micro_batch": arguments.micro_batch,
        "length": arguments.length,
        "precision": arguments.precision,
        "stages": [
            {
                "name": line.name,
                "stage": line.plan.stage,
                "moment": line.plan.moment,
                **{f"{part}_bytes": count for part, count in line.plan.parts.items()},
                "total_bytes": line.plan.total,
                "host_bytes": line.plan.host,
                "fits": line.fits,
                "largest_micro_batch": line.largest,
            }
            for line in found
        ],
    }


def to_table(arguments: argparse.Namespace, size: StudentSize, found: list[Line]) -> Table:
    """A column per stage, a row per part."""
    table = Table(
        title=f"{arguments.student}: {size.num_parameters / 1e6:,.0f} M parameters on "
        f"{arguments.gpus} x {arguments.gpu_memory / GIB:.4g} GiB\n"
        f"{arguments.micro_batch} examples of {arguments.length} tokens at a time, "
        f"{arguments.precision}; GiB per rank"
    )
    table.add_column("ZeRO stage", no_wrap=True)
    for line in found:
        table.add_column(line.name, justify="right", no_wrap=True)
    for part, colour in zip(PARTS, COLOURS, strict=True):
        table.add_row(
            Text(part).append(" █", style=colour),
            *(_gib(line.plan.parts[part]) for line in found),
            end_section=part == PARTS[-1],
        )
    marks = ["green" if line.fits else "red" for line in found]
    totals = [Text(_gib(it.plan.total), style=m) for it, m in zip(found, marks, strict=True)]
    fits = [Text("yes" if it.fits else "no", style=m) for it, m in zip(found, marks, strict=True)]
    table.add_row("total", *totals)
    table.add_row("fits", *fits)
    table.add_row("largest batch", *(str(line.largest or "-") for line in found))
    table.add_row("largest at", *(line.plan.moment for line in found))
    table.add_row("on the host", *(_gib(line.plan.host) for line in found))
    return table


def to_bars(found: list[Line], limit: int) -> Text:
    """A bar per stage, its parts end to end in their colours; | is the memory there is."""
    scale = max(limit, *(line.plan.total for line in found))
    bars = Text()
    for line in found:
        cells = Text()
        end = 0
        for part, colour in zip(PARTS, COLOURS, strict=True):
            end += line.plan.parts[part]
            cells.append("█" * (round(end / scale * BAR_WIDTH) - len(cells)), style=colour)
        cells.append(" " * (BAR_WIDTH + 1 - len(cells)))
        at = round(limit / scale * BAR_WIDTH)
        bars.append(f"{line.name:>11}  ").append_text(cells[:at]).append("|", style="bold")
        bars.append_text(cells[at + 1 :]).append("\n")
    return bars


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}" if count else "-"
