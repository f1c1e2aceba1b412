"""How long is `--help` of each command? It is the first thing that a new user waits for."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cluster.bench.result import BenchResult, Row
from cluster.launch.machine import ROOT

NUM_TURNS = 5
COMMANDS = (
    ("-m", "trainer.data"),
    ("-m", "trainer.pretrain"),
    ("-m", "trainer.targets"),
    ("-m", "trainer.plan"),
    ("-m", "trainer.chat"),
    ("-m", "trainer.evaluation"),
    ("-m", "trainer.evaluation.report"),
    ("-m", "trainer.evaluation.teachers"),
    ("-m", "teacher_server"),
    ("-m", "cluster.demo"),
    ("-m", "cluster.bench"),
    ("-m", "cluster.capacity"),
    ("-m", "cluster.grafana"),
    ("trainer/main.py",),
)


def bench_help(source: Path | None) -> BenchResult:
    """The median seconds of each command over five turns; no data is read."""
    rows: list[Row] = []
    for command in COMMANDS:
        taken = [_seconds(command) for _ in range(NUM_TURNS)]
        rows.append(
            {
                "command": f"python {' '.join(command)} --help",
                "median_s": statistics.median(taken),
                "slowest_s": max(taken),
            }
        )
    slowest_s = max(float(row["median_s"]) for row in rows)
    return BenchResult(figures={"slowest_help_s": slowest_s}, rows=rows, corpus="none")


def _seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command, "--help"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.perf_counter() - start
