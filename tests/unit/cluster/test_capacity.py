"""The capacity model, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cluster.capacity.__main__ import main
from cluster.capacity.devices import A100, ARITHMETIC_SHARE, MEMORY_SHARE, NODES
from cluster.capacity.estimate import Job, forward_flops, rates_of, row_s, update_s
from cluster.capacity.model import Rates, predict, replicas_for
from cluster.capacity.network import Link, exchange_s, exchanged_bytes
from cluster.capacity.shapes import SHAPES, shape_of
from trainer.common.errors import InputError
from trainer.plan.shape import SHAPES as PLANNED
from trainer.plan.shape import student_config, student_size

# A student's step of 1 s, whose 100 rows take a replica .8 s; an exchange of 1 s between two.
RATES = Rates(
    compute_s=1.0,
    rows=100.0,
    row_s=0.008,
    bytes_per_row=200.0,
    gradient_bytes=1e9,
    num_parameters=250_000_000,
    stage=0,
    link=Link(gbit=8.0, latency_s=0.0),
)
ALONE = dataclasses.replace(RATES, gradient_bytes=0.0)


def test_a_ring_moves_twice_the_gradients_at_most_and_three_times_at_stage_3() -> None:
    assert exchanged_bytes(0, 1e9, 2) == 1e9
    assert exchanged_bytes(2, 1e9, 4) == 1.5e9
    assert exchanged_bytes(3, 1e9, 4) == 2.25e9


def test_an_exchange_takes_the_links_time_and_each_buckets_latency() -> None:
    link = Link(gbit=8.0, latency_s=1e-3)
    # 1.5 GB at 1 GB/s, and two collectives of three buckets around a ring of four.
    time_s = exchange_s(2, 1e9, link, hosts=4, ranks=4, num_elements=150_000_000)
    assert time_s == pytest.approx(1.5 + 2 * 3 * 3 * 1e-3)
    assert exchange_s(2, 1e9, link, hosts=1, ranks=8, num_elements=150_000_000) == 0.0


def test_a_host_that_passes_on_less_than_its_link_is_the_bound() -> None:
    link = Link(gbit=8.0, latency_s=0.0, host_bytes_per_s=0.5e9)
    assert exchange_s(0, 1e9, link, hosts=2, ranks=2, num_elements=1) == 2.0


def test_students_bind_where_teachers_have_time_left() -> None:
    cell = predict(ALONE, students=1, teachers=1)
    assert (cell.step_s, cell.wait_s, cell.bound_by) == (1.0, 0.0, "students")
    assert cell.tokens_per_s == 100.0
    assert cell.teacher_use == pytest.approx(0.8)
    assert cell.teacher_bytes_per_s == pytest.approx(20_000.0)


def test_teachers_bind_where_they_are_asked_for_more_than_their_time() -> None:
    cell = predict(ALONE, students=4, teachers=2)
    assert cell.step_s == pytest.approx(1.6)
    assert cell.wait_s == pytest.approx(0.6)
    assert cell.teacher_use == pytest.approx(1.0)
    assert cell.bound_by == "teachers"


def test_the_exchange_adds_to_a_step_and_gives_teachers_time() -> None:
    cell = predict(RATES, students=2, teachers=1)
    assert cell.step_s == pytest.approx(2.0)
    assert cell.wait_s == 0.0
    assert cell.teacher_use == pytest.approx(0.8)
    assert cell.gradient_bytes_per_s == pytest.approx(0.5e9)


@pytest.mark.parametrize(("students", "replicas"), [(1, 1), (2, 2), (4, 4), (5, 4), (10, 8)])
def test_the_fewest_replicas_leave_no_wait_and_one_less_does(students: int, replicas: int) -> None:
    assert replicas_for(ALONE, students=students) == replicas
    assert predict(ALONE, students=students, teachers=replicas).wait_s == pytest.approx(0.0)
    if replicas > 1:
        assert predict(ALONE, students=students, teachers=replicas - 1).wait_s > 0.0


def test_a_host_with_several_ranks_asks_for_all_of_them() -> None:
    rates = dataclasses.replace(ALONE, ranks_per_student=8)
    assert replicas_for(rates, students=1) == 7
    assert predict(rates, students=1, teachers=7).tokens_per_s == pytest.approx(800.0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(it, marks=() if it == "small" else pytest.mark.everything) for it in PLANNED],
)
def test_shapes_have_as_many_parameters_as_the_models(name: str) -> None:
    shape = SHAPES[name]
    config = student_config(name, shape.vocab_size)
    size = student_size(config, length=8, dtype=torch.float32)
    assert shape.num_parameters == size.num_parameters


@pytest.mark.parametrize("name", ["large", "DialoGPT-large", "microsoft/DialoGPT-large"])
def test_a_shape_is_found_by_each_of_its_names(name: str) -> None:
    assert shape_of("--student", name) == SHAPES["large"]


def test_a_shape_without_a_name_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InputError, match=r"--student must be one of DialoGPT-small, .* got gpt5"):
        shape_of("--student", "gpt5")


def test_work_is_bound_by_arithmetic_or_by_memory() -> None:
    assert A100.seconds(flops=A100.flops, num_bytes=0.0) == pytest.approx(1 / ARITHMETIC_SHARE)
    assert A100.seconds(flops=0.0, num_bytes=A100.bytes_per_s) == pytest.approx(1 / MEMORY_SHARE)


def test_a_forward_takes_two_flops_for_each_parameter_and_token() -> None:
    small = SHAPES["small"]
    # 10 rows: 26 tokens through 85,056,000 parameters of layers, and ten products with the output.
    assert small.layer_parameters == 85_056_000
    expected = 2 * (26 * 85_056_000 + 10 * 57_184 * 768)
    assert forward_flops(small, 10) == pytest.approx(expected)


def job(gpu: str = "A100", **changes: object) -> Job:
    node = NODES[gpu]
    made = Job(
        student=SHAPES["large"],
        teacher=SHAPES["medium"],
        student_node=node,
        teacher_node=NODES["A10G"],
    )
    return dataclasses.replace(made, **changes)


def test_the_optimisers_share_shrinks_with_the_ranks_from_stage_1_on() -> None:
    device, large = A100, SHAPES["large"]
    whole = update_s(large, device, ranks=8, stage=0)
    assert update_s(large, device, ranks=8, stage=1) == pytest.approx(whole / 8)


def test_more_rows_in_a_round_make_a_row_cheaper_until_arithmetic_binds() -> None:
    device, medium = A100, SHAPES["medium"]
    few, many, more = (row_s(medium, device, rows) for rows in (1, 400, 4_000))
    assert few > 10 * many
    assert more == pytest.approx(many, rel=0.2)


def test_a_faster_device_needs_more_teachers() -> None:
    needed = {
        gpu: replicas_for(rates_of(job(gpu), students=32), students=32) for gpu in ("A100", "H100")
    }
    assert needed["H100"] > 1.5 * needed["A100"] > 0


def test_a_slower_link_lowers_what_a_host_adds() -> None:
    def per_host(gbit: float) -> float:
        rates = rates_of(job(link_gbit=gbit), students=32)
        teachers = replicas_for(rates, students=32)
        return predict(rates, students=32, teachers=teachers).tokens_per_s / 32

    assert per_host(400.0) > per_host(100.0) > per_host(10.0)


def test_the_answer_names_replicas_bytes_and_price(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "capacity.png"
    main(["--students", "32", "--student", "DialoGPT-large", "--json", "--draw", str(picture)])
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [each["gpu"] for each in answers] == ["A100", "H100"]
    for each in answers:
        assert each["teacher_replicas"] > 1
        assert 0.0 < each["efficiency"] < 1.0
        assert 0.9 < each["teacher_use"] <= 1.0
        assert each["wait_ms"] == 0.0
        assert each["dollars_per_hour"] > 100.0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_fewer_teachers_than_feed_the_students_make_them_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--students", "32", "--student", "small", "--teachers", "2", "--gpu", "H100", "--json"])
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["wait_ms"] > 0.0
    assert answer["efficiency"] < 0.5
    assert answer["teacher_use"] == pytest.approx(1.0)
