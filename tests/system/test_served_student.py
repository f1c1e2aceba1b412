"""The whole system at once: teachers behind Ray and gRPC, students under the DeepSpeed launcher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.action_forms import form_of
from tests.support.geometry import assert_same_geometry
from tests.support.served_teachers import (
    FittedTeachers,
    Service,
    run_in_process,
    serving_without_ray,
)
from tests.support.student_runs import (
    SERVED,
    SERVED_STEPS,
    error_lines,
    loss_curve,
    run_student,
    step_lines,
)
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.__main__ import main as data_command
from trainer.data.bags import Bags
from trainer.data.examples import Example
from trainer.data.loader import StudentInput, to_student_input
from trainer.data.model_input import InputLimits, dialogue_input
from trainer.data.prepared import PreparedData, load_prepared
from trainer.engine.student import Student
from trainer.loss import conkd
from trainer.models.causal_lm import (
    LanguageModelConfig,
    build_causal_lm,
    load_causal_lm,
)
from trainer.models.frozen_recommender import load_recommender
from trainer.teacher_client.client import TeacherClient


def test_served_student_has_the_loss_curve_of_in_process_teachers(
    service: Service, served_run: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    result = run_in_process(service.teachers, prepared_dir, tmp_path / "run", *SERVED)
    assert result.returncode == 0, result.stderr
    assert len(loss_curve(served_run)) == SERVED_STEPS
    assert loss_curve(served_run) == pytest.approx(loss_curve(tmp_path / "run"), rel=1e-5)


@pytest.mark.everything
def test_served_student_with_schedules_has_the_loss_curve_of_in_process_teachers(
    service: Service, prepared_dir: Path, tmp_path: Path
) -> None:
    steps = SERVED_STEPS // 2
    settings = (
        *(*SERVED, "distill.temperature=4"),
        *_schedule("gamma", "linear", to=0, steps=steps),
        *_schedule("temperature", "cosine", to=1, steps=steps - 2),
    )
    directory = f"teachers.directory={service.directory}"
    results = [
        run_student(prepared_dir, tmp_path / "served", *settings, directory),
        run_in_process(service.teachers, prepared_dir, tmp_path / "run", *settings),
    ]
    assert [it.returncode for it in results] == [0, 0], [it.stderr for it in results]
    curve = loss_curve(tmp_path / "served")
    assert len(curve) == SERVED_STEPS
    assert curve == pytest.approx(loss_curve(tmp_path / "run"), rel=1e-5)
    lines = step_lines(tmp_path / "served")
    assert (lines[0]["temperature"], lines[steps - 2]["temperature"]) == (4.0, 1.0)
    assert [it["gamma"] == 0.0 for it in lines] == [step >= steps for step in range(SERVED_STEPS)]
    # What is asked for is counted when it is asked, before the step that it is for.
    assert sum(it["teacher_requests"] for it in lines) == 2 * 2 * steps


def _schedule(name: str, form: str, *, to: float, steps: int) -> tuple[str, ...]:
    values = {"form": form, "to": to, "steps": steps}
    return tuple(f"distill.{name}_schedule.{key}={value}" for key, value in values.items())


@pytest.mark.everything
def test_served_student_loss_curve_is_the_same_at_stage_3(
    service: Service, served_run: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    directory = f"teachers.directory={service.directory}"
    result = run_student(prepared_dir, tmp_path / "run", *SERVED, directory, "zero_stage=3")
    assert result.returncode == 0, result.stderr
    curve, expected = loss_curve(tmp_path / "run"), loss_curve(served_run)
    assert len(curve) == SERVED_STEPS
    assert curve == pytest.approx(expected, rel=1e-3)
    assert curve[-1] < 0.95 * curve[0]


@pytest.mark.everything
def test_two_students_of_a_deterministic_fleet_have_the_same_losses_bit_for_bit(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    # Requests of both ranks, four batches ahead, share rounds as they happen to come.
    with serving_without_ray(tmp_path / "fleet", teachers, deterministic=True) as service:
        for name in ("first", "second"):
            directory = f"teachers.directory={service.directory}"
            result = run_student(prepared_dir, tmp_path / name, *SERVED, directory)
            assert result.returncode == 0, result.stderr
    first, second = (loss_curve(tmp_path / name) for name in ("first", "second"))
    assert len(first) == SERVED_STEPS
    assert first == second


def test_served_student_counts_what_it_asked_and_got(served_run: Path) -> None:
    lines = (served_run / "metrics.jsonl").read_text().splitlines()
    end = json.loads(lines[-1])
    steps = step_lines(served_run)
    # Two ranks, one micro-batch per step; nothing had to be asked twice. A rank asks the second
    # kind only if one of its responses needs a row.
    assert 2 * SERVED_STEPS <= end["teacher_requests"] <= 2 * 2 * SERVED_STEPS
    assert end["teacher_resends"] == 0
    spared = sum(entry["spared_rows"] for entry in steps)
    assert (spared < 32 * SERVED_STEPS) == (end["teacher_requests"] > 2 * SERVED_STEPS)
    assert sum(entry["wire_positions"] for entry in steps) == sum(it["positions"] for it in steps)
    assert steps[-1]["kept_mass"] == pytest.approx(1.0)
    assert end["wire_bytes_per_position"] > 0
    assert end["gate_mean_item_steps"] > 0


@pytest.mark.everything
def test_student_starts_with_the_recommendation_teachers_geometry(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    # Both are 32 wide, so the turn keeps every distance.
    still = ("distill.gamma=0", "train.steps=1", "optimiser.learning_rate=1e-9")
    vectors = f"item_vectors={teachers.recommendation}"
    result = run_student(prepared_dir, tmp_path / "run", *still, vectors)
    assert result.returncode == 0, result.stderr
    vocabulary = load_prepared(prepared_dir).vocabulary
    model = load_causal_lm(tmp_path / "run" / "model", vocabulary)
    rows = model.head.weight[vocabulary.first_item_id : vocabulary.rec_id]
    recommender, _ = load_recommender(teachers.recommendation)
    assert_same_geometry(rows.detach(), recommender.items_ID)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("gate", ["hard", "soft"])
def test_served_loss_and_gradient_are_those_of_dense_teachers(
    gate: str, temperature: float, service: Service, prepared_dir: Path
) -> None:
    data = load_prepared(prepared_dir)
    examples = tuple(data.examples("train")[:6])
    config = DistillConfig(
        gate="hard" if gate == "hard" else "soft",
        gamma=0.6,
        temperature=temperature,
        eta=0.1,
        top_k=0,
        recommendation_top_p=1.0,
        recommendation_top_k=0,
        values="float32",
    )
    client = TeacherClient(
        TeachersConfig(directory=service.directory),
        config,
        vocabulary=data.vocabulary,
        graph_digest=data.graphs_digest,
    )
    try:
        received = client.submit(examples, temperature).result()
    finally:
        client.close()
    torch.manual_seed(0)
    shape = LanguageModelConfig(num_layers=1, hidden_size=32, num_heads=2)
    model = build_causal_lm(shape, data.vocabulary)
    model.module.double()
    student = Student(model, loss_chunk_size=16)
    limits = InputLimits(actions=form_of(data.vocabulary))
    inputs = to_student_input(examples, data.vocabulary, limits)
    first = data.vocabulary.first_item_id
    items = range(first, first + data.vocabulary.num_items)
    targets = conkd.mix_targets(inputs.positions, received, config, items)
    loss, *_ = student(inputs.model, targets)
    expected = dense_loss(student, inputs, examples, service.teachers, data, config)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.module.parameters())
    for served, dense in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        assert float((served - dense).norm()) <= 1e-5 * float(dense.norm()) + 1e-12


def dense_loss(
    student: Student,
    inputs: StudentInput,
    examples: tuple[Example, ...],
    teachers: FittedTeachers,
    data: PreparedData,
    config: DistillConfig,
) -> Tensor:
    """Eqs. 5-11 as printed, one example at a time, from whole distributions in this process.

    Of docs/loss.md the teachers and what they teach at the temperature, times its square.
    """
    teacher = load_causal_lm(teachers.dialogue, data.vocabulary).module.double()
    recommender, _ = load_recommender(teachers.recommendation)
    first, size = data.vocabulary.first_item_id, data.vocabulary.size
    last = first + data.vocabulary.num_items
    total = torch.zeros((), dtype=torch.float64)
    for row, example in enumerate(examples):
        length = len(example.response_ids)
        ids = torch.from_numpy(dialogue_input(example, InputLimits()).tokens.astype(np.int64))[None]
        with torch.no_grad():
            scores_TV = teacher(ids).logits[0, -length:]
            phi_TV = scores_TV.softmax(-1)
            soft_phi_TV = (scores_TV / config.temperature).softmax(-1)
            bags = Bags.of([example.context_entities]), Bags.of([example.context_words])
            psi_V = torch.zeros(size, dtype=torch.float64)
            log_psi_I = recommender(*bags)[0].double()
            psi_V[first:last] = (log_psi_I / config.temperature).softmax(-1)
        end = len(example.context_ids) + 1 + length - 1
        student_TV = student.language_model(inputs.model.input_ids_BL[row : row + 1, :end]).logits[
            0, -length:
        ]
        log_q_TV = student_TV.log_softmax(-1)
        soft_log_q_TV = (student_TV / config.temperature).log_softmax(-1)
        mass_T = phi_TV[:, first:last].sum(-1)
        gate_T = (mass_T >= config.eta).double() if config.gate == "hard" else mass_T
        nll_T = -log_q_TV[range(length), example.response_ids.astype(np.int64)]
        gold_T, weight = (1 - config.gamma) * nll_T, config.gamma * config.temperature**2
        dial_T = gold_T - weight * (soft_phi_TV * soft_log_q_TV).sum(-1)
        rec_T = gold_T - weight * (psi_V * soft_log_q_TV).sum(-1)
        total = total + ((1 - gate_T) * dial_T + gate_T * rec_T).mean()
    return total


@pytest.mark.everything
def test_student_of_another_vocabulary_is_refused(service: Service, tmp_path: Path) -> None:
    other = tmp_path / "other"
    arguments = ("prepare", "--source", "synthetic", "--seed", "5", "--dialogues", "60")
    data_command([*arguments, "--output", str(other)])
    settings = (f"teachers.directory={service.directory}", "train.steps=2")
    result = run_student(other, tmp_path / "run", *settings, ranks=1)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "vocabulary" in line
    assert load_prepared(other).vocabulary.digest in line
