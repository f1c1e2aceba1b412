"""KL of a student to the dense dialogue teacher against a slow twin in float64."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.evaluation_fakes import (
    tiny_vocabulary,
    write_dialogue_teacher,
    write_student,
    write_tiny_data,
)
from trainer.data.dialogue import SPLITS
from trainer.data.examples import Example, write_examples
from trainer.data.prepared import PreparedData
from trainer.evaluation import dense_divergence
from trainer.evaluation.dense_divergence import divergence
from trainer.evaluation.divergence import main
from trainer.evaluation.loaded_model import LoadedModel, load_model
from trainer.scoring.metrics import scores


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("divergence")
    data = write_tiny_data(root / "data")
    examples = two_dialogues(data)
    for split in SPLITS:
        write_examples(root / "data" / f"{split}.jsonl", examples)
    write_student(root / "student", data.vocabulary, seed=3, action_tokens=False)
    write_student(root / "acting", data.vocabulary, seed=5)
    write_dialogue_teacher(root / "teacher", data.vocabulary, seed=4)
    return root


def two_dialogues(data: PreparedData) -> list[Example]:
    return [
        dataclasses.replace(it, example_id=f"{'ab'[n > 3]}:{n}")
        for n, it in enumerate(data.examples("valid"))
    ]


def distributions(loaded: LoadedModel, example: Example) -> np.ndarray:
    """Of every step of the response, in float64, one example at a time; [T, V]."""
    vocabulary = loaded.vocabulary
    recommends = vocabulary.rec_id if example.is_recommendation else vocabulary.gen_id
    action = [recommends] if loaded.actions else []
    ids = [*example.context_ids, *action, *example.response_ids[:-1]]
    module = loaded.model.module.double()
    with torch.inference_mode():
        logits_LV = module(torch.tensor([ids])).logits[0]
    module.float()
    return torch.softmax(logits_LV[-len(example.response_ids) :], -1).numpy()


def twin(
    student: LoadedModel, teacher: LoadedModel, examples: list[Example]
) -> dict[str, dict[str, float]]:
    """Sums by dialogue and name, position by position."""
    vocabulary = student.vocabulary
    items = range(vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items)
    sums = {name: dict.fromkeys(dense_divergence.COUNTS, 0.0) for name in "ab"}
    for example in examples:
        q_TV, p_TV = distributions(student, example), distributions(teacher, example)
        if teacher.actions:
            # As it is served: over words and films alone.
            p_TV[:, vocabulary.rec_id :] = 0.0
            p_TV /= p_TV.sum(-1, keepdims=True)
        for q_V, p_V, label in zip(q_TV, p_TV, example.response_ids, strict=True):
            measured = {
                "positions": 1.0,
                "kl_dialogue": sum(
                    p * math.log(p / q) for p, q in zip(p_V, q_V, strict=True) if p > 0
                ),
                "teacher_entropy": -sum(p * math.log(p) for p in p_V if p > 0),
                "student_entropy": float(-(q_V * np.log(q_V)).sum()),
                "teacher_item_mass": float(p_V[items.start : items.stop].sum()),
                "student_item_mass": float(q_V[items.start : items.stop].sum()),
                "teacher_agreed": float(p_V.argmax() == q_V.argmax()),
            }
            of_dialogue = sums[example.example_id[0]]
            for name, value in measured.items():
                of_dialogue[name] += value
                key = "item_positions" if name == "positions" else f"{name}_item"
                of_dialogue[key] += value * (label in items)
    return sums


@pytest.mark.parametrize(
    ("name", "of_teacher"),
    [("student", "teacher"), ("acting", "teacher"), ("teacher", "teacher"), ("student", "acting")],
)
def test_divergence_equals_the_dense_twin(
    root: Path, name: str, of_teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_divergence, "POSITION_CHUNK", 3)
    monkeypatch.setattr(dense_divergence, "BATCH", 4)
    student, teacher = load_model(root / name), load_model(root / of_teacher)
    examples = two_dialogues(write_tiny_data(root / "plain"))
    got, wanted = divergence(student, teacher, examples), twin(student, teacher, examples)
    assert got.dialogues == ("a", "b")
    for row, dialogue in enumerate(got.dialogues):
        found = {count: float(values_N[row]) for count, values_N in got.counts.items()}
        assert found == pytest.approx(wanted[dialogue], rel=2e-4, abs=2e-4)
    if name == "teacher":
        assert found["kl_dialogue"] == 0.0 and found["teacher_agreed"] == found["positions"]


def test_command_prints_scores_and_writes_sums(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        *("--checkpoint", str(root / "student"), "--teacher", str(root / "teacher")),
        *("--data", str(root / "data")),
    ]
    main([*folders, "--output", str(tmp_path / "found.json")])
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["split"] == "valid"
    positions = sum(said["sums"]["counts"]["positions"])
    total = sum(said["sums"]["counts"]["kl_dialogue"])
    assert said["scores"]["kl_dialogue"] == pytest.approx(total / positions)
    main([*folders, "--limit", "2"])
    text = capsys.readouterr().out
    assert "KL to the dialogue teacher, nats" in text and "2 responses" in text


def test_model_of_another_vocabulary_is_one_line(root: Path, tmp_path: Path) -> None:
    write_student(tmp_path / "other", tiny_vocabulary(79), seed=3, action_tokens=False)
    command = ["--checkpoint", str(tmp_path / "other"), "--teacher", str(root / "teacher")]
    with pytest.raises(ValueError, match="must have vocabulary digest"):
        main([*command, "--data", str(root / "data")])


def test_a_split_of_no_response_at_a_film_has_no_score_there(root: Path) -> None:
    student, teacher = load_model(root / "student"), load_model(root / "teacher")
    examples = [
        it for it in two_dialogues(write_tiny_data(root / "plain")) if not it.gold_items.size
    ]
    found = scores(divergence(student, teacher, examples))
    assert found["kl_dialogue_item"] is None and found["kl_dialogue"] is not None
