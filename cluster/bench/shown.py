"""Results of benchmarks, printed and kept."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cluster.bench.result import RESULTS, BenchResult, Row
from trainer.common.atomic import write_json
from trainer.common.machine import num_cpus


def show_result(name: str, source: Path | None, result: BenchResult, *, as_json: bool) -> None:
    """Keep a result, and print it as a table or as one JSON object."""
    content = to_json(name, source, result)
    write_json(RESULTS / f"{name}.json", content)
    if as_json:
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()
    else:
        Console().print(to_table(name, result.rows), to_table("", [dict(result.figures)]))


def to_json(name: str, source: Path | None, result: BenchResult) -> dict[str, Any]:
    """The object that a benchmark prints and keeps."""
    return {
        "benchmark": name,
        "corpus": result.corpus,
        "data": "synthetic" if source is None else str(source),
        "machine": machine(),
        **result.figures,
        **result.details,
        "rows": result.rows,
    }


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    return {
        "cores": num_cpus(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def to_table(title: str, rows: Sequence[Row]) -> Table:
    """Rows as a table; numbers to four digits."""
    table = Table(title=title)
    for column in rows[0] if rows else []:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{it:.4g}" if isinstance(it, float) else str(it) for it in row.values()))
    return table
