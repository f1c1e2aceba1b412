"""What a run reads of frozen models before its first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.support import tiny_teachers
from tests.support.action_forms import form_of
from tests.support.client_world import examples
from tests.support.evaluation_fakes import write_classifier, write_tiny_data
from trainer import export, student_run
from trainer.config.distill import DistillConfig
from trainer.config.language_model import LanguageModelConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ACTIONS
from trainer.data.model_input import InputLimits
from trainer.data.prepared import PreparedData
from trainer.evaluation.loaded_model import load_model, resolve_classifier
from trainer.kinds.table import TEACHER_KINDS
from trainer.models import frozen
from trainer.models.language_model import build_language_model, write_language_model
from trainer.models.student_card import read_student_card
from trainer.pretrain.dialogue import write_dialogue_card

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


def test_a_run_reads_action_tokens_as_its_settings_say(data: PreparedData) -> None:
    model = build_language_model(SHAPE, data.vocabulary)
    plain = RunConfig(data="", output="", action_tokens=False)
    assert export._limits(plain, model, data.vocabulary) == model.limits
    config = RunConfig(data="", output="", action_history=True, action_loss=True)
    limits = export._limits(config, model, data.vocabulary)
    assert limits.actions == form_of(data.vocabulary, ACTION_HISTORY, ACTION_LOSS)
    # Two earlier turns of the recommender take a token each.
    eos, word = data.vocabulary.eos_id, 5
    long = dataclasses.replace(examples(1, 2)[0], context_ids=np.array([word, eos] * 5, np.int32))
    needed = 10 + 2 + len(long.response_ids)
    export._check_length(config, dataclasses.replace(limits, max_tokens=needed), [long])
    short = dataclasses.replace(limits, max_tokens=needed - 1)
    with pytest.raises(ValueError, match=f"max_positions must be at least {needed} for"):
        export._check_length(config, short, [long])


def test_a_dialogue_teacher_lists_how_it_read_action_tokens(
    data: PreparedData, tmp_path: Path
) -> None:
    model = build_language_model(LanguageModelConfig(num_layers=1), data.vocabulary)
    write_language_model(tmp_path, model)
    data.vocabulary.save(tmp_path)
    config = RunConfig(data="", output="", action_history=True)
    write_dialogue_card(tmp_path, model, data, export.actions_of(config))
    assert [*frozen.read_card(tmp_path, "dialogue").capabilities] == [ACTIONS, ACTION_HISTORY]
    assert load_model(tmp_path).limits.actions == form_of(data.vocabulary, ACTION_HISTORY)


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
