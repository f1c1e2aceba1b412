"""KGSF's transformer as teacher and as student, the whole way: fit, serve, distil, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.student_runs import (
    EXACT,
    TINY,
    Service,
    error_lines,
    fit,
    loss_curve,
    run_in_process,
    run_student,
    serving,
)
from trainer.chat import Conversation
from trainer.data.prepare import load_prepared
from trainer.evaluation.evaluate import EvaluateConfig, evaluate_model
from trainer.evaluation.generate import GenerateConfig
from trainer.evaluation.speaker import load_speaker
from trainer.models.frozen import read_card
from trainer.models.kg_transformer import KgTransformer

STEPS = 12
KGSF = (*TINY, "student.architecture=kgsf")


@pytest.fixture(scope="module")
def service(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("kgsf")
    recommendation = fit("recommendation", prepared_dir, folder / "recommendation", "epochs=2")
    knowledge = f"knowledge={recommendation}"
    settings = (*KGSF, knowledge, "train.steps=20", "zero_stage=1")
    dialogue = fit("dialogue", prepared_dir, folder / "dialogue", *settings, ranks=2)
    with serving(folder, dialogue, recommendation) as service:
        yield service


@pytest.fixture(scope="module")
def student(service: Service, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("student") / "run"
    teachers = (f"teachers.directory={service.directory}", f"knowledge={service.recommendation}")
    lean = ("zero_stage=3", "student.activation_checkpointing=true")
    settings = (*EXACT, *KGSF, *teachers, f"train.steps={STEPS}", *lean)
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    return output


def test_kgsf_teacher_card_says_what_it_reads(service: Service, prepared_dir: Path) -> None:
    card, data = read_card(service.dialogue, "dialogue"), load_prepared(prepared_dir)
    assert (card.max_tokens, card.max_entities, card.max_words) == (320, 50, 256)
    assert (card.num_entities, card.num_words) == (data.graph.num_entities, len(data.words.words))
    assert card.graph_digest == data.graphs_digest


def test_lean_kgsf_student_at_zero_3_has_the_loss_curve_of_in_process_teachers_at_zero_1(
    service: Service, student: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    settings = (*EXACT, *KGSF, f"knowledge={service.recommendation}", f"train.steps={STEPS}")
    result = run_in_process(service, prepared_dir, tmp_path / "run", *settings)
    assert result.returncode == 0, result.stderr
    curve = loss_curve(student)
    assert len(curve) == STEPS
    assert curve == pytest.approx(loss_curve(tmp_path / "run"), rel=1e-4)
    assert curve[-1] < 0.95 * curve[0]


def test_kgsf_student_is_evaluated_and_chats(student: Path, prepared_dir: Path) -> None:
    data = load_prepared(prepared_dir)
    config = EvaluateConfig(split="test", classifier="oracle", limit=6)
    first, second = (evaluate_model(student, data, config) for _ in range(2))
    assert first.likelihood == second.likelihood
    said = [[r.token_ids for r in each.responses] for each in (first, second)]
    assert said[0] == said[1]
    assert first.likelihood.num_tokens > 0
    speaker = load_speaker(student)
    assert isinstance(speaker.model, KgTransformer)
    with pytest.raises(ValueError, match="Give --data DIR"):
        Conversation(speaker, None, GenerateConfig())


def test_kgsf_student_learns_in_bf16(service: Service, prepared_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    knowledge = f"knowledge={service.recommendation}"
    settings = (*KGSF, knowledge, "distill.gamma=0", "train.steps=8", "train.precision=bf16")
    result = run_student(prepared_dir, output, *settings, ranks=1)
    assert result.returncode == 0, result.stderr
    curve = loss_curve(output)
    assert curve[-1] < 0.98 * curve[0]
    data = load_prepared(prepared_dir)
    config = EvaluateConfig(split="test", classifier="oracle", limit=4)
    likelihood = evaluate_model(output, data, config).likelihood
    assert likelihood.nll_sum / likelihood.num_tokens < curve[0]


def test_student_with_knowledge_of_another_architecture_is_one_line(
    service: Service, prepared_dir: Path, tmp_path: Path
) -> None:
    settings = ("distill.gamma=0", f"knowledge={service.recommendation}")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "knowledge must be null unless student.architecture is kgsf" in line
