"""The processes of the benchmark `scaling`, on this machine instead of hosts of their own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cluster.bench.corpus import Dialogues
from cluster.bench.scaling.bench import FLEET, plan_of, run_cells
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.figures import figures_of, table_of
from cluster.bench.scaling.fixed_batch import fixed_parts, rows_of
from cluster.bench.scaling.grid import STRONG, WEAK, Grid
from cluster.bench.scaling.inputs import prepare_inputs
from cluster.bench.scaling.world import HEAD, Shared, World, student_host, teacher_host
from cluster.launch.ports import free_port
from tests.support.loopback_hosts import LoopbackHost

STEPS = 3
GRID = Grid(students=(1, 2), teachers=(1, 2))
NAMES = (HEAD, teacher_host(1), teacher_host(2), student_host(0), student_host(1))


@pytest.mark.everything
def test_every_cell_is_answered_whole_while_replicas_join(
    prepared_dir: Path, tmp_path: Path
) -> None:
    shared = Shared(here=tmp_path / "shared", there=tmp_path / "shared")
    shared.here.mkdir()
    recipe = Path("trainer/configs/synthetic.yaml")
    inputs = prepare_inputs(Dialogues(name="synthetic", data=prepared_dir, recipe=recipe), shared)
    assert inputs.lengths.step_s > 0.0
    assert inputs.lengths.row_s > 0.0
    # Short ones: what is tested is not how long they are.
    lengths = Lengths(step_s=0.2, row_s=1e-4, rows=inputs.lengths.rows, num_parameters=1_000_000)
    hosts = {name: LoopbackHost() for name in NAMES}
    world = World(hosts, shared, tmp_path / "logs", directory_port=free_port())
    try:
        plan = plan_of(
            world, shared, inputs.with_lengths(lengths), GRID, steps=STEPS, port=free_port()
        )
        world.start_directory(FLEET)
        bus = world.start_students(plan, 2)
        cells = run_cells(world, plan, GRID.cells(), lengths)
        processes = world.processes()
    finally:
        world.stop()
    assert [it.cell for it in cells] == GRID.cells()
    alone = cells[0].ranks[0]
    bytes_per_row = alone.teacher_bytes / alone.rows
    for it in cells:
        rows = sum(map(rows_of, fixed_parts(inputs.data, it.cell.batch)))
        assert len(it.ranks) == it.cell.students
        for rank in it.ranks:
            assert rank.rows == STEPS * rows
            assert len(rank.step_s) == STEPS
            assert rank.resends == 0
            # A row keeps 64 entries, and an entry takes a byte at least.
            assert rank.teacher_bytes > rank.rows * 64
            assert rank.teacher_bytes == pytest.approx(bytes_per_row * rank.rows, rel=0.02)
    assert 0.0 < bus < math.inf
    assert processes == {"fleet-directory", "fleet-1", "fleet-2", "student1", "student2"}
    table = table_of(cells, lengths, 10.0)
    assert [row["scaling"] for row in table] == [WEAK] * 4 + [STRONG]
    assert figures_of(table, lengths)["student_efficiency"] > 0.0


@pytest.mark.everything
def test_a_process_that_ends_is_named_with_what_it_wrote_last(tmp_path: Path) -> None:
    shared = Shared(here=tmp_path / "shared", there=tmp_path / "elsewhere")
    shared.here.mkdir()
    hosts = {name: LoopbackHost() for name in NAMES}
    world = World(hosts, shared, tmp_path / "logs", directory_port=free_port())
    try:
        # The folder has another path on the hosts: nothing is found there.
        with pytest.raises(
            OSError, match=r"fleet-directory must run, got its end with 2.*elsewhere"
        ):
            world.start_directory(FLEET)
    finally:
        world.stop()
