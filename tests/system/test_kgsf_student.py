"""KGSF's transformer as teacher and as student, the whole way: fit, serve, distil, evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served_teachers import (
    FittedTeachers,
    Service,
    fit,
    run_in_process,
    serving_without_ray,
)
from tests.support.student_runs import EXACT, TINY, loss_curve, run_student
from trainer.data.prepared import load_prepared
from trainer.evaluation.conversation import Conversation
from trainer.evaluation.evaluate import EvaluateConfig, evaluate_model
from trainer.evaluation.generate import GenerateConfig
from trainer.evaluation.loaded_model import load_model
from trainer.models.frozen import read_card
from trainer.models.kg_language_model import KgLanguageModel

pytestmark = pytest.mark.everything

STEPS = 12
KGSF = (*TINY, "student.architecture=kgsf")


@pytest.fixture(scope="module")
def kgsf_fleet(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("kgsf")
    settings = (*KGSF, f"knowledge={teachers.recommendation}", "train.steps=20", "zero_stage=1")
    dialogue = fit("dialogue", prepared_dir, folder / "dialogue", *settings, ranks=2)
    pair = FittedTeachers(dialogue=dialogue, recommendation=teachers.recommendation)
    with serving_without_ray(folder, pair) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def student(
    kgsf_fleet: Service, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("student") / "run"
    teachers = (
        f"teachers.directory={kgsf_fleet.directory}",
        f"knowledge={kgsf_fleet.teachers.recommendation}",
    )
    lean = ("zero_stage=3", "student.activation_checkpointing=true")
    settings = (*EXACT, *KGSF, *teachers, f"train.steps={STEPS}", *lean)
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    return output


def test_kgsf_teacher_card_says_what_it_reads(kgsf_fleet: Service, prepared_dir: Path) -> None:
    card, data = read_card(kgsf_fleet.teachers.dialogue, "dialogue"), load_prepared(prepared_dir)
    assert (card.max_tokens, card.max_entities, card.max_words) == (320, 50, 256)
    assert (card.num_entities, card.num_words) == (data.graph.num_entities, len(data.words.words))
    assert card.graph_digest == data.graphs_digest


def test_lean_kgsf_student_at_zero_3_has_the_loss_curve_of_in_process_teachers_at_zero_1(
    kgsf_fleet: Service, student: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    settings = (
        *EXACT,
        *KGSF,
        f"knowledge={kgsf_fleet.teachers.recommendation}",
        f"train.steps={STEPS}",
    )
    result = run_in_process(kgsf_fleet.teachers, prepared_dir, tmp_path / "run", *settings)
    assert result.returncode == 0, result.stderr
    curve = loss_curve(student)
    assert len(curve) == STEPS
    assert curve == pytest.approx(loss_curve(tmp_path / "run"), rel=1e-4)
    assert curve[-1] < 0.95 * curve[0]


def test_kgsf_student_is_evaluated_and_chats(student: Path, prepared_dir: Path) -> None:
    data = load_prepared(prepared_dir)
    config = EvaluateConfig(split="test", classifier="oracle", limit=6)
    first, second = (evaluate_model(student, data, config) for _ in range(2))
    assert first.records == second.records
    assert all(record.gold_tokens for record in first.records)
    loaded = load_model(student)
    assert isinstance(loaded.model, KgLanguageModel)
    with pytest.raises(ValueError, match="Give --data DIR"):
        Conversation(loaded, None, GenerateConfig())


def test_kgsf_student_learns_in_bf16(
    kgsf_fleet: Service, prepared_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    knowledge = f"knowledge={kgsf_fleet.teachers.recommendation}"
    settings = (*KGSF, knowledge, "distill.gamma=0", "train.steps=8", "train.precision=bf16")
    result = run_student(prepared_dir, output, *settings, ranks=1)
    assert result.returncode == 0, result.stderr
    curve = loss_curve(output)
    assert curve[-1] < 0.98 * curve[0]
    data = load_prepared(prepared_dir)
    config = EvaluateConfig(split="test", classifier="oracle", limit=4)
    assert math.log(evaluate_model(output, data, config).to_dict()["perplexity"]) < curve[0]
