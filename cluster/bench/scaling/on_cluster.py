"""The same table on a real cluster, without sleeps: `--address`, on its head.

For each number of replicas the fleet is scaled; for each number of hosts a short run of the recipe
trains beside it. What it measures stands in the runs' own logs. The model has no line here: it is
for `python -m cluster.capacity` to say what such machines should do, before they are rented.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.bench.result import BenchResult, Row
from cluster.bench.scaling.grid import WEAK, Cell, Grid
from cluster.bench.scaling.run_steps import read_steps
from trainer.common.errors import MachineError, MissingError
from trainer.kinds.names import DIALOGUE

SHARED = "CONKD_SHARED"
STEPS, WARM_UP = 70, 10
# Responses of a host, which may have up to eight ranks.
BATCH, MICRO_BATCH = 128, 16


def bench_on_cluster(address: str, config: Path, grid: Grid) -> BenchResult:
    """Measure the cells of weak scaling on the cluster at an address; leaves the fleet as it is.

    Raises:
        MissingError: if the environment of a cluster's node is not there.
        MachineError: if a command of the cluster fails.
    """
    shared = os.environ.get(SHARED)
    if shared is None:
        raise MissingError(
            f"{SHARED} must name the cluster's shared folder, got nothing. Run it on the head: "
            "python -m cluster bench scaling"
        )
    found: list[Row] = []
    weak = [cell for cell in grid.cells() if cell.scaling == WEAK]
    for teachers in grid.teachers:
        _cluster(address, "cluster.head", "teachers", "scale", f"{DIALOGUE}={teachers}")
        for cell in (it for it in weak if it.teachers == teachers):
            found.append(_row(cell, _train(address, cell, config, Path(shared))))
            sys.stderr.write(f"{cell.name}: {found[-1]['tokens_per_s']:.0f} tokens/s\n")
    return BenchResult(figures=figures_of(found), rows=found, corpus=config.stem)


def _train(address: str, cell: Cell, config: Path, shared: Path) -> list[dict[str, Any]]:
    """Steps of a new run on so many hosts."""
    name = f"bench-{cell.name}-{uuid.uuid4().hex[:6]}"
    settings = (
        *(f"train.batch_size={BATCH * cell.students}", f"train.steps={STEPS}"),
        *(f"train.micro_batch_size={MICRO_BATCH}", f"train.checkpoint_every={STEPS}"),
        *("train.epochs=null", "train.select=last"),
    )
    nodes = ("--nodes", str(cell.students), "--min-nodes", str(cell.students))
    _cluster(
        address, "cluster.head", "train", "--name", name, *nodes, *settings, text=config.read_text()
    )
    _cluster(address, "cluster.students", "follow", "--name", name)
    steps = read_steps(shared / "runs" / name, after=WARM_UP)
    # Nobody will pull it, and `down` refuses to lose a run that nobody has.
    shutil.rmtree(shared / "runs" / name)
    return steps


def _cluster(address: str, module: str, *arguments: str, text: str = "") -> None:
    """Run a command of the cluster's; MachineError with its last line if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_ADDRESS": address},
    )
    if done.returncode:
        last = ["no word", *done.stdout.splitlines(), *done.stderr.splitlines()][-1]
        raise MachineError(
            f"python -m {module} {' '.join(arguments)} must end with 0, got {done.returncode}: "
            f"{last}"
        )


def _row(cell: Cell, steps: Sequence[dict[str, Any]]) -> Row:
    seconds = sum(it["step_s"] for it in steps)
    return {
        "students": cell.students,
        "teachers": cell.teachers,
        "tokens_per_s": sum(it["positions"] for it in steps) / seconds,
        "step_s": seconds / len(steps),
        "exposed_wait": sum(it["teacher_wait_s"] for it in steps) / seconds,
        "teacher_mb_per_s": sum(it["wire_bytes"] + it["request_bytes"] for it in steps)
        / seconds
        / 1e6,
    }


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """Efficiency of a student among the most against the fewest, beside the most teachers."""
    most = max(int(row["teachers"]) for row in rows)
    beside = sorted(
        (row for row in rows if row["teachers"] == most), key=lambda row: int(row["students"])
    )
    each = [float(row["tokens_per_s"]) / int(row["students"]) for row in beside]
    return {"student_efficiency": each[-1] / each[0]}
