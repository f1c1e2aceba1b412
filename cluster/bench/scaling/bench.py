"""Throughput against node counts: hosts of students on one axis, replicas on the other.

Hosts are namespaces of this machine whose links have a stated rate. On them run the real client,
servers and Directory, under TLS, and a real all-reduce with as many bytes as the student of the
recipe has gradients. Forward, backward and the teachers' forward are sleeps of measured length, as
if every host had a device of its own. Beside each cell stands what the capacity model says of it.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.corpus import prepared_dialogues
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.figures import MeasuredCell, figures_of, table_of
from cluster.bench.scaling.fixed_batch import fixed_parts, rows_of
from cluster.bench.scaling.grid import Cell, Grid
from cluster.bench.scaling.inputs import ANSWERS, DATA, DIALOGUE_ALONE, Inputs, prepare_inputs
from cluster.bench.scaling.on_cluster import bench_on_cluster
from cluster.bench.scaling.options import ScalingOptions
from cluster.bench.scaling.plan import CellPlan, Plan
from cluster.bench.scaling.predicted import compute_s, gradient_bytes
from cluster.bench.scaling.real import measure_real
from cluster.bench.scaling.world import HEAD, Shared, Starter, World, student_host, teacher_host
from cluster.netns.lab import Lab
from trainer.data.prepared import PreparedData

LINK_GBIT = 10.0
STEPS, WARM_UP = 60, 5
# Each is alone on its host.
DIRECTORY_PORT, MASTER_PORT, REAL_PORT = 50_051, 29_500, 29_501
FLEET = "fleet"
# What sleeps nearly all the time stands for hosts of their own: no other program of this machine
# may come before it when it wakes up. The run without sleeps has no such place.
FIRST = ("nice", "-n", "-20")
LOGS = Path("bench/logs/scaling")
# Of the run without sleeps: two ranks on two cores.
REAL_HOSTS = 2


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the Directory and the stores of the first rank listen."""

    directory: int = DIRECTORY_PORT
    master: int = MASTER_PORT
    real: int = REAL_PORT


def bench_scaling(source: Path | None, options: ScalingOptions) -> BenchResult:
    """Measure all cells, on a cluster if one is named, else on hosts in namespaces."""
    if options.address is not None:
        return bench_on_cluster(options.address, options.config, options.grid)
    return bench_alone(source, options.grid)


def bench_alone(source: Path | None, grid: Grid, *, steps: int = STEPS) -> BenchResult:
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
        measured = measure_all(lab, shared, inputs, grid, steps=steps, ports=Ports())
    lengths, cells, real = measured
    return result_of(cells, real, lengths, dialogues.name)


def measure_all(
    hosts: Mapping[str, Starter],
    shared: Shared,
    inputs: Inputs,
    grid: Grid,
    *,
    steps: int,
    ports: Ports,
) -> tuple[Lengths, list[MeasuredCell], list[Row]]:
    """The cells, and then the run without sleeps on one host and, if there are some, on two.

    Also the lengths, with what an exchange alone sends on these hosts.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    world = World(hosts, shared, LOGS, directory_port=ports.directory, prefix=FIRST)
    try:
        plan = plan_of(world, shared, inputs, grid, steps=steps, port=ports.master)
        world.start_directory(FLEET)
        bus = world.start_students(plan, grid.students[-1])
        lengths = dataclasses.replace(inputs.lengths, bus_bytes_per_s=bus)
        cells = run_cells(world, plan, grid.cells(), lengths)
        world.stop()
        numbers = range(1, min(REAL_HOSTS, grid.students[-1]) + 1)
        inputs = inputs.with_lengths(lengths)
        real = measure_real(world, shared, inputs, numbers, port=ports.real, gbit=LINK_GBIT)
    finally:
        world.stop()
    return lengths, cells, real


def plan_of(
    world: World, shared: Shared, inputs: Inputs, grid: Grid, *, steps: int, port: int
) -> Plan:
    """What the students are told."""
    return Plan(
        data=str(shared.there / DATA),
        recipe=str(inputs.recipe),
        settings=(*DIALOGUE_ALONE, *world.settings),
        master=f"{world.address(student_host(0))}:{port}",
        gradient_bytes=gradient_bytes(inputs.lengths),
        steps=steps,
        warm_up=WARM_UP,
        cells=tuple(
            CellPlan(
                students=cell.students,
                batch=cell.batch,
                compute_s=compute_s(inputs.lengths, _rows(inputs.data, cell.batch)),
            )
            for cell in grid.cells()
        ),
    )


def run_cells(
    world: World, plan: Plan, cells: Sequence[Cell], lengths: Lengths
) -> list[MeasuredCell]:
    """Run one cell after the other; replicas join as cells need them."""
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


def result_of(
    cells: Sequence[MeasuredCell], real: list[Row], lengths: Lengths, corpus: str
) -> BenchResult:
    """Figures and rows; also draws bench/results/scaling.png."""
    from cluster.bench.scaling.plot import draw_scaling

    rows: list[Row] = table_of(cells, lengths, LINK_GBIT)
    draw_scaling(rows, lengths, RESULTS / "scaling.png")
    figures = {
        **figures_of(rows, lengths),
        "link_gbit": LINK_GBIT,
        "gradient_mb": gradient_bytes(lengths) / 1e6,
        "bus_mb_per_s": lengths.bus_bytes_per_s / 1e6,
        "steps": float(cells[0].steps),
        "real_efficiency": float(real[-1]["efficiency"]),
    }
    return BenchResult(figures=figures, rows=rows, corpus=corpus, details={"real": real})


def _rows(data: PreparedData, batch: int) -> int:
    return sum(map(rows_of, fixed_parts(data, batch)))
