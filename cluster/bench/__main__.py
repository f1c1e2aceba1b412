"""Benchmarks: measure, print a table or JSON, and keep the result in bench/results/NAME.json.

python -m cluster.bench NAME|all [--data DIR] [--json]

`teachers` fits the two that the others measure, once; `all` begins with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cluster.bench.chaos.bench import bench_chaos
from cluster.bench.corpus import DEFAULT_SOURCE, default_source
from cluster.bench.loss.bench import bench_loss
from cluster.bench.memory.bench import bench_memory
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.bench.service.bench import bench_service
from cluster.bench.step.bench import bench_step
from cluster.bench.teachers import bench_teachers
from cluster.bench.wire.bench import bench_wire
from cluster.stages import checked_source
from trainer.common.atomic import write_json
from trainer.common.cli import run_main
from trainer.common.errors import InputError

ALL = "all"
EXIT_FAILED = 1
"""A part of a benchmark came to no result; all others are in its JSON."""
BENCHMARKS: dict[str, Callable[[Path | None], BenchResult]] = {
    "teachers": bench_teachers,
    "loss": bench_loss,
    "step": bench_step,
    "memory": bench_memory,
    "wire": bench_wire,
    "service": bench_service,
    "chaos": bench_chaos,
}
NAMES = ", ".join([*BENCHMARKS, ALL])


def main(argv: list[str]) -> None:
    """Run the named benchmark, or all of them; the status is 1 if a part of one failed."""
    arguments = _parse(argv)
    source = arguments.data or default_source()
    failures: list[str] = []
    for name in BENCHMARKS if arguments.name == ALL else [arguments.name]:
        result = BENCHMARKS[name](source)
        content = to_json(name, source, result)
        write_json(RESULTS / f"{name}.json", content)
        if arguments.json:
            sys.stdout.write(json.dumps(content) + "\n")
            sys.stdout.flush()
        else:
            Console().print(to_table(name, result.rows), to_table("", [dict(result.figures)]))
        failures += [f"{name}: {failure}" for failure in result.failures]
    if failures:
        sys.stderr.writelines(f"failed: {failure}\n" for failure in failures)
        sys.exit(EXIT_FAILED)


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


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.bench")
    parser.add_argument("name", metavar="NAME", help=f"one of {NAMES}")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"ReDial's dialogues, as make demo takes them (default: {DEFAULT_SOURCE}, or the "
        "synthetic corpus where there is no such folder)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per benchmark")
    arguments = parser.parse_args(argv)
    if arguments.name not in (*BENCHMARKS, ALL):
        raise InputError(f"NAME must be one of {NAMES}, got {arguments.name!r}.")
    checked_source(arguments.data)
    return arguments


if __name__ == "__main__":
    run_main(main)
