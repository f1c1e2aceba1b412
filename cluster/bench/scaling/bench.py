"""Throughput against node counts: hosts of students on one axis, replicas on the other.

Hosts are namespaces of this machine whose links have a stated rate. On them run the real client,
servers and Directory, under TLS, and a real all-reduce with as many bytes as the student of the
recipe has gradients. Forward, backward and the teachers' forward are sleeps of measured length, as
if every host had a device of its own. Beside each cell stands what the capacity model says of it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.corpus import Dialogues, prepared_dialogues
from cluster.bench.fleet.recording import record_kind
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.bench.scaling.calibration import Lengths, measure_lengths, write_teacher
from cluster.bench.scaling.figures import MeasuredCell, figures_of, table_of
from cluster.bench.scaling.fixed_batch import fixed_parts, rows_of
from cluster.bench.scaling.grid import BATCH, Cell, Grid
from cluster.bench.scaling.plan import CellPlan, Plan
from cluster.bench.scaling.predicted import compute_s, gradient_bytes
from cluster.bench.scaling.world import HEAD, Shared, Starter, World, student_host, teacher_host
from cluster.netns.lab import Lab
from cluster.stages import ROOT
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import PreparedData, load_prepared
from trainer.kinds.names import DIALOGUE

LINK_GBIT = 10.0
STEPS, WARM_UP = 60, 5
# Both are alone on their hosts.
DIRECTORY_PORT, MASTER_PORT = 50_051, 29_500
FLEET, ANSWERS = "fleet", "answers.npz"
# The dialogue teacher alone is asked: its replicas are the axis.
DIALOGUE_ALONE = ("distill.gate=fixed", "distill.fixed_lambda=0")
LOGS = Path("bench/logs/scaling")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the Directory and the first rank's store listen."""

    directory: int = DIRECTORY_PORT
    master: int = MASTER_PORT


def bench_scaling(source: Path | None, grid: Grid, *, steps: int = STEPS) -> BenchResult:
    """Measure all cells of a grid on hosts in namespaces; needs root."""
    names = [
        HEAD,
        *(teacher_host(number + 1) for number in range(grid.teachers[-1])),
        *(student_host(rank) for rank in range(grid.students[-1])),
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conkd-scaling-")))
        shared = Shared(here=folder / "shared", there=Path("/shared"))
        shared.here.mkdir()
        # First: what this machine cannot do must not wait for data and teachers.
        lab = stack.enter_context(Lab(folder / "lab", hosts=names, shared=shared.here))
        for host in lab.values():
            host.limit(rate_mbit=1e3 * LINK_GBIT)
        dialogues = prepared_dialogues(source)
        inputs = prepare_inputs(dialogues, shared)
        cells = measure_cells(lab, shared, inputs, grid, steps=steps, ports=Ports())
    return result_of(cells, inputs.lengths, dialogues.name)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the hosts are given, in the shared folder, and what is known of it."""

    recipe: Path
    data: PreparedData
    lengths: Lengths


def prepare_inputs(dialogues: Dialogues, shared: Shared) -> Inputs:
    """Put data, the teacher and its recorded answers into the shared folder; measure lengths."""
    folder = shared.here / "data"
    shutil.copytree(dialogues.data, folder)
    data = load_prepared(folder)
    places = [f"data={folder}", "output=unused", *DIALOGUE_ALONE]
    config = load_config(RunConfig, ROOT / dialogues.recipe, places)
    teacher = write_teacher(data, shared.here / "teacher")
    lengths = measure_lengths(config, data, teacher)
    examples = [example for part in fixed_parts(data, BATCH) for example in part]
    record_kind(DIALOGUE, teacher, examples, config.distill, shared.here / ANSWERS)
    sys.stderr.write(
        f"a step of {lengths.rows} rows takes {lengths.step_s:.3f} s, a row of the teacher "
        f"{1e3 * lengths.row_s:.3f} ms: one student uses {lengths.load:.2f} of a replica\n"
    )
    return Inputs(recipe=dialogues.recipe, data=data, lengths=lengths)


def measure_cells(
    hosts: Mapping[str, Starter],
    shared: Shared,
    inputs: Inputs,
    grid: Grid,
    *,
    steps: int,
    ports: Ports,
) -> list[MeasuredCell]:
    """Start everything, and run one cell after the other; replicas join as cells need them."""
    LOGS.mkdir(parents=True, exist_ok=True)
    world = World(hosts, shared, LOGS, directory_port=ports.directory)
    cells = grid.cells()
    rows = {cell.batch: _rows(inputs.data, cell.batch) for cell in cells}
    plan = Plan(
        data=str(shared.there / "data"),
        recipe=str(inputs.recipe),
        settings=(*DIALOGUE_ALONE, *world.settings),
        master=f"{hosts[student_host(0)].address}:{ports.master}",
        gradient_bytes=gradient_bytes(inputs.lengths),
        steps=steps,
        warm_up=WARM_UP,
        cells=tuple(
            CellPlan(
                students=cell.students,
                batch=cell.batch,
                compute_s=compute_s(inputs.lengths, rows[cell.batch]),
            )
            for cell in cells
        ),
    )
    try:
        world.start_directory(FLEET)
        world.start_students(plan, grid.students[-1])
        return _run_cells(world, plan, cells, inputs.lengths)
    finally:
        world.stop()


def _run_cells(
    world: World, plan: Plan, cells: Sequence[Cell], lengths: Lengths
) -> list[MeasuredCell]:
    serving, found = 0, []
    for index, cell in enumerate(cells):
        numbers = range(serving + 1, cell.teachers + 1)
        if numbers:
            world.start_replicas(FLEET, numbers, answers=ANSWERS, seconds_per_row=lengths.row_s)
            serving = cell.teachers
        measured = MeasuredCell(
            cell=cell, ranks=tuple(world.run_cell(plan, index)), steps=plan.steps
        )
        sys.stderr.write(
            f"{cell.name}: {measured.tokens_per_s:.0f} tokens/s, "
            f"{measured.seconds / plan.steps:.3f} s a step\n"
        )
        found.append(measured)
    return found


def result_of(cells: Sequence[MeasuredCell], lengths: Lengths, corpus: str) -> BenchResult:
    """Figures and rows; also draws bench/results/scaling.png."""
    from cluster.bench.scaling.plot import draw_scaling

    rows: list[Row] = table_of(cells, lengths, LINK_GBIT)
    draw_scaling(rows, lengths, RESULTS / "scaling.png")
    return BenchResult(
        figures={**figures_of(rows, lengths), "link_gbit": LINK_GBIT, "steps": cells[0].steps},
        rows=rows,
        corpus=corpus,
    )


def _rows(data: PreparedData, batch: int) -> int:
    return sum(map(rows_of, fixed_parts(data, batch)))
