"""The table of the benchmark `scaling`: its cells, its files and its figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cluster.bench.__main__ import main
from cluster.bench.scaling import plan as plans
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.figures import MeasuredCell, figures_of, table_of
from cluster.bench.scaling.grid import STRONG, WEAK, Cell, Grid
from cluster.bench.scaling.options import counts
from cluster.bench.scaling.plan import CellPlan, Measured, Plan
from cluster.bench.scaling.predicted import bound_tokens_per_s, predicted
from trainer.common.errors import InputError, MissingError

LENGTHS = Lengths(step_s=1.0, row_s=0.0008, rows=1_000, num_parameters=8_000_000)
STEPS = 4


def measured(
    students: int, teachers: int, step_s: float, *, wait_s: float = 0.0, scaling: str = WEAK
) -> MeasuredCell:
    """A cell whose ranks wait in turn, as ranks do that share a replica."""
    ranks = [
        Measured(
            rows=STEPS * 1_000,
            teacher_bytes=400_000,
            sent_bytes=10_000_000,
            received_bytes=10_000_000,
            cpu_s=0.1,
            resends=0,
            step_s=(step_s,) * STEPS,
            wait_s=tuple(wait_s * (step % students == rank) for step in range(STEPS)),
            exchange_s=tuple(0.02 + wait_s * (step % students != rank) for step in range(STEPS)),
        )
        for rank in range(students)
    ]
    cell = Cell(scaling=scaling, students=students, teachers=teachers)
    return MeasuredCell(cell=cell, ranks=tuple(ranks), steps=STEPS)


CELLS = [
    measured(1, 1, 1.0),
    measured(4, 1, 3.3, wait_s=2.2),
    measured(1, 4, 1.0),
    measured(4, 4, 1.05),
]


def test_cells_add_replicas_and_take_none_away() -> None:
    cells = Grid(students=(1, 4), teachers=(1, 2)).cells()
    assert [cell.name for cell in cells] == [
        *("weak-1x1", "weak-4x1", "weak-1x2", "weak-4x2"),
        "strong-4x2",
    ]


def test_strong_scaling_divides_the_batch_that_a_weak_student_has_whole() -> None:
    weak, strong = (Cell(scaling=it, students=4, teachers=1) for it in (WEAK, STRONG))
    assert (weak.batch, strong.batch) == (192, 48)


def test_counts_are_sorted_and_each_is_there_once() -> None:
    assert counts("4,1,2,1") == (1, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["scaling", r"--students", "1,x"], "--students must be whole numbers in .1, 256. .* 1,x"),
        (["scaling", r"--teachers", "0"], "--teachers must be whole numbers in .1, 256. .* got 0"),
        (
            ["scaling", "--students", "32"],
            "--students must be at most 16 without --address, got 32",
        ),
        (["scaling", "--config", "x"], "--config must be given beside --address alone, got x"),
        (["scaling", "--address", "auto", "--config", "x"], "--config must be a file, got x"),
        (["wire", "--teachers", "2"], "--teachers must be given for scaling alone, got wire"),
    ],
)
def test_a_wrong_grid_is_refused(arguments: list[str], error: str) -> None:
    with pytest.raises((InputError, MissingError), match=error):
        main(arguments)


def test_efficiencies_are_along_the_axes() -> None:
    figures = figures_of(table_of(CELLS, LENGTHS, 10.0), LENGTHS)
    assert figures["student_efficiency"] == pytest.approx(1.0 / 1.05)
    # Beside one replica .970: 4,000 rows in 3.3 s, of 1,250 in each second; beside four it is less.
    assert figures["teacher_efficiency"] == pytest.approx(1.0 / 1.05)
    assert figures["load"] == pytest.approx(0.8)


def test_what_one_rank_waits_for_targets_the_others_wait_for_it() -> None:
    row = table_of(CELLS, LENGTHS, 10.0)[1]
    assert row["exposed_wait"] == pytest.approx(2.2 / 3.3)
    assert row["exchange_s"] == pytest.approx(0.02)
    assert row["teacher_use"] == pytest.approx(4_000 * 0.0008 / 3.3)


def test_the_models_error_is_of_tokens_and_the_largest_counts() -> None:
    rows = table_of(CELLS, LENGTHS, 10.0)
    for row, it in zip(rows, CELLS, strict=True):
        model = predicted(it.cell, LENGTHS, rows=1_000, link_gbit=10.0).tokens_per_s
        assert row["model_error"] == pytest.approx(model / it.tokens_per_s - 1)
    slow = dataclasses.replace(CELLS[2], ranks=measured(1, 4, 1.25).ranks)
    rows = table_of([*CELLS, slow], LENGTHS, 10.0)
    assert figures_of(rows, LENGTHS)["model_max_error"] == pytest.approx(0.25)


def test_the_bound_is_what_computing_alone_allows() -> None:
    cell = Cell(scaling=WEAK, students=4, teachers=2)
    assert bound_tokens_per_s(cell, LENGTHS, rows=1_000) == pytest.approx(2_500.0)
    rich = dataclasses.replace(cell, teachers=4)
    assert bound_tokens_per_s(rich, LENGTHS, rows=1_000) == pytest.approx(4_000.0)


def test_the_model_of_a_cell_has_its_exchange_and_its_teachers() -> None:
    cell = Cell(scaling=WEAK, students=4, teachers=4)
    model = predicted(cell, LENGTHS, rows=1_000, link_gbit=10.0)
    # 24 MB at 1.25 GB/s, and two collectives around a ring of four at .1 ms.
    assert model.exchange_s == pytest.approx(0.0192 + 0.0006)
    assert model.step_s == pytest.approx(1.0 + model.exchange_s)
    assert model.wait_s == 0.0
    slow = dataclasses.replace(LENGTHS, bus_bytes_per_s=0.5e9)
    model = predicted(cell, slow, rows=1_000, link_gbit=10.0)
    assert model.exchange_s == pytest.approx(0.048 + 0.0006)


def test_a_plan_and_what_a_rank_measured_come_back_as_they_were(tmp_path: Path) -> None:
    plan = Plan(
        data="data",
        recipe="recipe",
        settings=("a=1",),
        master="127.0.0.1:1",
        gradient_bytes=8,
        steps=3,
        warm_up=1,
        cells=(CellPlan(students=2, batch=32, compute_s=0.5),),
    )
    plans.write_plan(tmp_path, plan)
    assert plans.read_plan(tmp_path) == plan
    (rank,) = measured(1, 1, 1.0).ranks
    plans.write_measured(tmp_path / "x.json", rank)
    assert plans.read_measured(tmp_path / "x.json") == rank
