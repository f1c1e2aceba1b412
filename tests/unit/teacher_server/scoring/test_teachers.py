from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from protos.codec import TargetRows
from protos.teacher_pb2 import Compression, Description
from teacher_server.scoring import teachers as teachers_module
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.description import describe, num_token_ids
from teacher_server.scoring.device_batches import BatchLimits, score_together
from teacher_server.scoring.kinds import load_teacher
from teacher_server.scoring.score_work import ScoreWork, columns_of
from teacher_server.scoring.teachers import DialogueTeacher, RecommendationTeacher
from tests.support import tiny_teachers
from trainer.data.bags import Bags
from trainer.data.model_input import InputLimits, SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import load_causal_lm
from trainer.models.frozen_recommender import load_recommender

CPU = torch.device("cpu")
WHOLE = Compression()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())


def random_inputs(num_ids: int, lengths: list[int], targets: list[int]) -> list[SequenceInput]:
    rng = np.random.default_rng(0)
    return [
        SequenceInput.at_end(
            num_rows=num_rows,
            tokens=rng.integers(0, num_ids, length, dtype=np.int32),
            entities=rng.integers(0, tiny_teachers.NUM_ENTITIES, length, dtype=np.int32),
            words=rng.integers(0, tiny_teachers.NUM_WORDS, rng.integers(0, 13), dtype=np.int32),
        )
        for length, num_rows in zip(lengths, targets, strict=True)
    ]


def dense(rows: TargetRows) -> np.ndarray:
    """Probabilities [R, V] of rows that keep everything they can."""
    probs_RV = np.zeros((rows.num_rows, rows.vocab_size))
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    probs_RV[row_E, rows.ids_E] = np.exp(rows.log_probs_E)
    return probs_RV


def test_dialogue_rows_are_the_last_positions_scored_one_by_one(folders: dict[str, Path]) -> None:
    vocabulary = Vocabulary.load(folders["dialogue"])
    model = load_causal_lm(folders["dialogue"], vocabulary).module.eval()
    inputs = random_inputs(vocabulary.first_item_id + 30, [9, 1, 30, 64, 12], [3, 1, 30, 5, 1])
    twin = []
    for example in inputs:
        length = len(example.tokens)
        for position in range(length - example.num_rows, length):
            prefix = torch.from_numpy(example.tokens[: position + 1].astype(np.int64))
            with torch.inference_mode():
                logits_V = model(input_ids=prefix[None]).logits[0, -1]
            twin.append(torch.softmax(logits_V.double(), -1).numpy())
    rows = DialogueTeacher.load(folders["dialogue"], CPU).score(inputs, WHOLE)
    np.testing.assert_allclose(dense(rows), np.stack(twin), atol=1e-6)
    items = slice(vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items)
    np.testing.assert_allclose(rows.item_mass_R, np.stack(twin)[:, items].sum(-1), atol=1e-5)


def test_dialogue_rows_do_not_depend_on_the_size_of_the_chunks(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = DialogueTeacher.load(folders["dialogue"], CPU)
    inputs = random_inputs(200, [20, 31], [20, 17])
    whole = teacher.score(inputs, WHOLE)
    monkeypatch.setattr(teachers_module, "CHUNK_POSITIONS", 5)
    np.testing.assert_allclose(dense(teacher.score(inputs, WHOLE)), dense(whole), atol=1e-6)


@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
def test_rows_do_not_depend_on_what_else_is_in_the_batch(
    folders: dict[str, Path], kind: str
) -> None:
    teacher = load_teacher(kind, folders[kind], CPU)
    lengths = [9, 1, 20, 15, 3, 12, 7]
    targets = [4, 1, 9, 15, 2, 1, 7] if kind == "dialogue" else [1] * 7
    inputs = random_inputs(tiny_teachers.NUM_ENTITIES, lengths, targets)
    alone = np.concatenate([dense(teacher.score([example], WHOLE)) for example in inputs])
    works = [
        ScoreWork(columns_of(part), WHOLE, 0, 0, 0)
        for part in (inputs[:2], inputs[2:3], inputs[3:])
    ]
    joined = score_together(teacher.score, works, BatchLimits(token_budget=45))
    np.testing.assert_allclose(np.concatenate([dense(rows) for rows in joined]), alone, atol=1e-6)


def test_recommendation_rows_are_the_recommender_s_over_vocabulary_ids(
    folders: dict[str, Path],
) -> None:
    recommender, _ = load_recommender(folders["recommendation"])
    teacher = RecommendationTeacher.load(folders["recommendation"], CPU)
    inputs = random_inputs(tiny_teachers.NUM_ENTITIES, [3, 0, 1], [1, 1, 1])
    rows = teacher.score(inputs, WHOLE)
    first = teacher.description.first_item_id
    for example, probs_V in zip(inputs, dense(rows), strict=True):
        twin_I = recommender(Bags.of([example.entities]), Bags.of([example.words]))[0].exp()
        np.testing.assert_allclose(probs_V[first : first + 30], twin_I.numpy(), atol=1e-6)
        assert probs_V[first : first + 30].sum() == pytest.approx(probs_V.sum())
    assert rows.item_mass_R.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
def test_draws_depend_on_seed_and_input_alone(folders: dict[str, Path], kind: str) -> None:
    teacher = load_teacher(kind, folders[kind], CPU)
    targets = [3, 2, 1] if kind == "dialogue" else [1, 1, 1]
    inputs = random_inputs(1, [6, 4, 5], targets)
    together = dense(teacher.score(inputs, Compression(samples=8)))
    apart = np.concatenate(
        [dense(teacher.score([each], Compression(samples=8))) for each in inputs]
    )
    other = dense(teacher.score(inputs, Compression(samples=8, seed=1)))
    np.testing.assert_array_equal(together, apart)
    assert not np.array_equal(together, other)


def test_recommendation_of_examples_without_any_entity_is_scored(folders: dict[str, Path]) -> None:
    teacher = RecommendationTeacher.load(folders["recommendation"], CPU)
    rows = teacher.score(random_inputs(1, [0, 0], [1, 1]), Compression(top_k=3))
    assert rows.counts_R.tolist() == [3, 3]


def test_description_comes_from_card_and_vocabulary(folders: dict[str, Path]) -> None:
    dialogue = load_teacher("dialogue", folders["dialogue"], CPU).description
    recommendation = load_teacher("recommendation", folders["recommendation"], CPU).description
    assert dialogue.vocabulary_digest == recommendation.vocabulary_digest
    assert num_token_ids(dialogue) == dialogue.vocab_size - 3
    assert InputLimits.of(dialogue) == InputLimits(max_tokens=64, takes_ranges=True)
    assert InputLimits.of(recommendation) == InputLimits(max_entities=20, max_words=12)
    assert recommendation.num_entities == tiny_teachers.NUM_ENTITIES
    assert recommendation.graph_digest == "tiny-graph"
    assert (dialogue.num_words, recommendation.num_words) == (0, tiny_teachers.NUM_WORDS)


def test_load_teacher_with_another_vocabulary_than_its_card_is_refused(tmp_path: Path) -> None:
    tiny_teachers.write_dialogue_teacher(tmp_path, tiny_teachers.tiny_vocabulary())
    card = json.loads((tmp_path / "teacher.json").read_text())
    card["vocabulary_digest"] = "other"
    (tmp_path / "teacher.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="must have digest other, got"):
        DialogueTeacher.load(tmp_path, CPU)


def test_load_teacher_of_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of dialogue, recommendation, got moon"):
        load_teacher("moon", tmp_path, CPU)


def test_load_teacher_of_another_kind_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="must hold a recommendation model"):
        RecommendationTeacher.load(folders["dialogue"], CPU)


def test_score_adds_the_time_of_compression(folders: dict[str, Path]) -> None:
    inputs = random_inputs(20, [3], [1])
    for kind in ("dialogue", "recommendation"):
        counters = ReplicaCounters()
        teacher = load_teacher(kind, folders[kind], CPU, counters=counters)
        teacher.score(inputs, Compression(top_k=4))
        once = counters.compress_s
        assert once > 0
        teacher.score(inputs, Compression(top_k=4))
        assert counters.compress_s > once


def test_sizes_of_a_teacher_are_those_of_its_vocabulary_whatever_its_card_has(
    folders: dict[str, Path],
) -> None:
    vocabulary = Vocabulary.load(folders["dialogue"])
    card = Description(
        kind="dialogue", vocabulary_digest=vocabulary.digest, vocab_size=3, num_items=2
    )
    described = describe(card, vocabulary)
    assert (described.vocab_size, described.num_items) == (vocabulary.size, vocabulary.num_items)
    parts = (described.catalogue_digest, described.text_digest)
    assert parts == (vocabulary.catalogue_digest, vocabulary.text_digest)
