"""What a run reads of frozen models before its first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from transformers import AutoTokenizer

from tests.support import tiny_teachers
from tests.support.client_world import examples
from tests.support.evaluation_fakes import write_classifier, write_tiny_data
from trainer import export, student_run
from trainer.config.distill import DistillConfig
from trainer.config.language_model import LanguageModelConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.data.model_input import InputLimits
from trainer.data.prepared import PreparedData
from trainer.evaluation.loaded_model import load_model, resolve_classifier
from trainer.kinds.table import TEACHER_KINDS
from trainer.models import frozen
from trainer.models.language_model import build_language_model, write_language_model
from trainer.models.student_card import read_student_card

SHAPE = LanguageModelConfig(architecture="kgsf", num_layers=1, hidden_size=16, num_heads=2)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedData:
    """Data of the tiny teachers' graph."""
    monkeypatch.setattr(PreparedData, "graphs_digest", "tiny-graph")
    return write_tiny_data(tmp_path / "data")


@pytest.fixture
def teacher(tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_teachers, "NUM_ENTITIES", data.vocabulary.num_items)
    tiny_teachers.write_recommendation_teacher(tmp_path / "teacher", data.vocabulary)
    return tmp_path / "teacher"


def test_weights_of_one_folder_are_hashed_once_by_a_rank(
    data: PreparedData, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def digest(path: Path) -> str:
        hashed.append(path)
        return digest_file(path)

    digest_file = frozen.digest_file
    monkeypatch.setattr(frozen, "digest_file", digest)
    folder = str(teacher)
    config = RunConfig(data="", output="", item_vectors=folder, knowledge=folder, student=SHAPE)
    student_run._check_models(config, data.vocabulary.digest, check_weights=True)
    export._build(config, data, None)
    assert hashed == [teacher / "model.safetensors"]


def test_torn_weights_of_a_model_that_a_run_loads_are_refused(
    data: PreparedData, teacher: Path
) -> None:
    with (teacher / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="The file was changed or torn"):
        export._recommender(teacher, data)


def test_teacher_that_takes_too_few_tokens_is_refused_by_its_name() -> None:
    moon = dataclasses.replace(TEACHER_KINDS["dialogue"], share=None)
    kinds = {**TEACHER_KINDS, "moon": moon}
    named = DistillConfig(teachers={"phobos": NamedTeacher(kind="moon")})
    for name, distill in (("moon", DistillConfig()), ("phobos", named)):
        config = RunConfig(data="", output="", distill=distill)
        limits = {"recommendation": InputLimits(max_entities=1), name: InputLimits(max_tokens=6)}
        teachers: Any = SimpleNamespace(kinds=kinds, limits=limits)
        # Two tokens of context, and the response but for its last one.
        export._check_teachers(config, teachers, examples(3, 5))
        with pytest.raises(ValueError, match=f"{name} teacher must take inputs of 7 .* takes 6"):
            export._check_teachers(config, teachers, examples(6, 5))


@pytest.mark.parametrize("architecture", ["gpt2", "kgsf"])
def test_exported_student_of_any_architecture_is_complete_and_loads(
    data: PreparedData, tmp_path: Path, architecture: Literal["gpt2", "kgsf"]
) -> None:
    folder = tmp_path / "run" / "model"
    write_classifier(tmp_path / "classifier", data.vocabulary, seed=1)
    shape = dataclasses.replace(SHAPE, architecture=architecture)
    config = RunConfig(
        data="", output="", classifier=str(tmp_path / "classifier"), student=shape, seed=1
    )
    model = build_language_model(shape, data.vocabulary)
    folder.mkdir(parents=True)
    write_language_model(folder, model)
    export._write_vocabulary(folder, data.vocabulary, model.limits.max_tokens)
    # Twice: an export may be repeated.
    for _ in range(2):
        export.complete_student(folder, config, data, export.Exported(model, 7))
    moved = tmp_path / "moved"
    folder.rename(moved)
    loaded = load_model(moved)
    assert loaded.classifier == "classifier"
    assert resolve_classifier(loaded, None) == str(moved / "classifier")
    assert read_student_card(moved).steps == 7
    assert len(AutoTokenizer.from_pretrained(moved)) == data.vocabulary.size
    readme = (moved / "README.md").read_text()
    assert ("from transformers import pipeline" in readme) == (architecture == "gpt2")
    assert "corpus `synthetic`" in readme
