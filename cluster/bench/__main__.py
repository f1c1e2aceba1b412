"""Benchmarks: measure, print a table or JSON, and keep the result in bench/results/NAME.json.

python -m cluster.bench NAME|all [--data DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cluster.bench.chaos.bench import bench_chaos
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.bench.service import bench_service
from cluster.bench.step import bench_step
from cluster.bench.wire import bench_wire
from trainer.atomic import write_json
from trainer.cli import run_main

ALL = "all"


def main(argv: list[str]) -> None:
    """Run the named benchmark, or all of them."""
    benchmarks: dict[str, Callable[[Path | None], BenchResult]] = {
        "step": bench_step,
        "wire": bench_wire,
        "service": bench_service,
        "chaos": bench_chaos,
    }
    parser = argparse.ArgumentParser(prog="python -m cluster.bench")
    parser.add_argument("name", metavar="NAME", help=f"one of {_names(benchmarks)}")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="ReDial's dialogues, as make demo takes them (default: the synthetic corpus)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per benchmark")
    arguments = parser.parse_args(argv)
    if arguments.name not in (*benchmarks, ALL):
        raise ValueError(f"NAME must be one of {_names(benchmarks)}, got {arguments.name!r}.")
    for name in benchmarks if arguments.name == ALL else [arguments.name]:
        result = benchmarks[name](arguments.data)
        content = {
            "benchmark": name,
            "corpus": result.corpus,
            "machine": machine(),
            **result.figures,
            **result.details,
            "rows": result.rows,
        }
        write_json(RESULTS / f"{name}.json", content)
        if arguments.json:
            sys.stdout.write(json.dumps(content) + "\n")
        else:
            Console().print(to_table(name, result.rows), to_table("", [dict(result.figures)]))


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count() or 1,
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


def _names(benchmarks: Iterable[str]) -> str:
    return ", ".join([*benchmarks, ALL])


if __name__ == "__main__":
    run_main(main)
