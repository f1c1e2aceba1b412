"""Answers of a deterministic fleet: bytes of the request alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from protos import codec
from protos.teacher_pb2 import FLOAT32, Compression
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.determinism import ALONE, WORKSPACE, compute_deterministically
from teacher_server.scoring.device_batches import BatchLimits, score_together
from teacher_server.scoring.kinds import load_teacher
from teacher_server.scoring.score_work import ScoreWork, columns_of
from tests.support import tiny_teachers
from tests.support.fake_teacher import FakeTeacher
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import SequenceInput

CUT = Compression(top_k=16, values=FLOAT32)
DRAWN = Compression(samples=8, seed=3, values=FLOAT32)
SHAPE = LanguageModelConfig(num_layers=2, hidden_size=96, num_heads=3, max_positions=64)
BUDGETS = (1, 70, 4096)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    root = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "dialogue", vocabulary, SHAPE)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    kinds = ("dialogue", "recommendation")
    return {kind: load_teacher(kind, root / kind, torch.device("cpu")) for kind in kinds}


def requests_of(kind: str) -> list[list[SequenceInput]]:
    """Six requests of one to five examples."""
    rng = np.random.default_rng(2)

    def example() -> SequenceInput:
        length = int(rng.integers(1, 64))
        return SequenceInput.at_end(
            num_rows=int(rng.integers(1, length + 1)) if kind == "dialogue" else 1,
            tokens=rng.integers(0, 200, length, dtype=np.int32),
            entities=rng.integers(0, tiny_teachers.NUM_ENTITIES, length % 9, dtype=np.int32),
            words=rng.integers(0, tiny_teachers.NUM_WORDS, length % 7, dtype=np.int32),
        )

    return [[example() for _ in range(number)] for number in (1, 3, 2, 5, 1, 4)]


def blocks(
    teacher: Teacher,
    requests: Sequence[Sequence[SequenceInput]],
    limits: BatchLimits,
    compression: Compression,
) -> list[bytes]:
    """The reply blocks of requests that share a round."""
    works = [ScoreWork(columns_of(request), compression, 0, 0, 0) for request in requests]
    return [
        codec.encode(rows, compression.values)
        for rows in score_together(teacher.score, works, limits)
    ]


@pytest.mark.parametrize("compression", [CUT, DRAWN], ids=["cut", "drawn"])
@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
def test_answer_has_the_same_bytes_alone_and_beside_others_in_any_order(
    kind: str, compression: Compression, teachers: dict[str, Teacher]
) -> None:
    teacher, requests = teachers[kind], requests_of(kind)
    plain = BatchLimits()
    limits = [dataclasses.replace(plain, token_budget=it, **ALONE) for it in BUDGETS]
    alone = [blocks(teacher, [it], limits[-1], compression)[0] for it in requests]
    for each in limits:
        assert blocks(teacher, requests, each, compression) == alone
        assert blocks(teacher, requests[::-1], each, compression) == alone[::-1]
        assert blocks(teacher, requests[1:3], each, compression) == alone[1:3]


def test_deterministic_round_scores_each_example_alone() -> None:
    teacher = FakeTeacher()
    ids = [np.arange(length, dtype=np.int32) for length in (3, 5, 2)]
    request = [SequenceInput.at_end(num_rows=1, tokens=tokens) for tokens in ids]
    blocks(teacher, [request, request[:1]], dataclasses.replace(BatchLimits(), **ALONE), CUT)
    assert sorted(teacher.batches) == [[2], [3], [3], [5]]


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings of the process, which are put back."""
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
def test_deterministic_operations_are_those_that_teachers_use_and_give_the_same(
    kind: str, teachers: dict[str, Teacher], restored: None
) -> None:
    teacher, requests = teachers[kind], requests_of(kind)
    cuts = (Compression(values=FLOAT32), CUT, DRAWN, Compression(top_p=0.9, values=FLOAT32))
    before = [blocks(teacher, requests, BatchLimits(), cut) for cut in cuts]
    compute_deterministically()
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == ":4096:8"
    assert [blocks(teacher, requests, BatchLimits(), cut) for cut in cuts] == before


def test_workspace_that_the_environment_asks_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, restored: None
) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    compute_deterministically()
    assert os.environ[WORKSPACE] == ":16:8"
