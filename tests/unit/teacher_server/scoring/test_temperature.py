"""Rows at the temperature of each request, against softmaxes of their own in float64.

T rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from protos import codec
from protos.codec import TargetRows
from protos.target_rows import COLUMNS
from protos.teacher_pb2 import FLOAT32, Compression
from protos.temperatures import temperature_range
from teacher_server.scoring.compress import Support, compress
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.determinism import ALONE
from teacher_server.scoring.device_batches import BatchLimits, score_together
from teacher_server.scoring.kinds import load_teacher
from teacher_server.scoring.score_work import ScoreWork, columns_of
from tests.support import tiny_teachers
from trainer.data.model_input import SequenceInput, merge_sequences

V = 40
SUPPORT = Support(vocab_size=V, first_id=0, first_item_column=30, num_items=7)
TEMPERATURES = (1.0, 2.0, 4.0, 0.5, 1.0, 20.0)
CUTS = (Compression(top_k=5), Compression(top_p=0.8), Compression(), Compression(samples=6))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    root = tmp_path_factory.mktemp("teachers")
    folders = tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())
    cpu = torch.device("cpu")
    return {kind: load_teacher(kind, folder, cpu) for kind, folder in folders.items()}


def logits(num_rows: int) -> torch.Tensor:
    return 3.0 * torch.randn(num_rows, V, generator=torch.Generator().manual_seed(0))


def assert_same_rows(one: TargetRows, other: TargetRows) -> None:
    for name in (*COLUMNS, "item_mass_R"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("own", [1.0, 1.5])
@pytest.mark.parametrize("cut", CUTS[:3], ids=str)
def test_each_row_is_softened_by_its_own_temperature_before_it_is_cut(
    cut: Compression, own: float
) -> None:
    scores_TV, asked_T = logits(6), np.array(TEMPERATURES)
    rows = compress(scores_TV, cut, support=SUPPORT, temperature=own, asked_T=asked_T)
    codec.check_rows(rows)
    start = 0
    for row, asked in enumerate(TEMPERATURES):
        end = start + int(rows.counts_R[row])
        ids = rows.ids_E[start:end]
        exact_V = scores_TV[row].double() / own
        soft_V = torch.softmax(exact_V / asked, -1).numpy()
        np.testing.assert_allclose(np.exp(rows.log_probs_E[start:end]), soft_V[ids], rtol=1e-5)
        rest = np.delete(soft_V, ids)
        assert rows.tail_R[row] == pytest.approx(rest.sum(), rel=1e-5, abs=1e-7)
        assert rest.max(initial=0.0) <= soft_V[ids].min() * (1 + 1e-6)
        # What the gate reads is the teacher's own distribution at any temperature.
        own_mass = torch.softmax(exact_V, -1)[30:37].sum()
        assert rows.item_mass_R[row] == pytest.approx(float(own_mass), rel=1e-5)
        start = end


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_rows_at_temperature_1_keep_their_bits_beside_others(cut: Compression) -> None:
    scores_TV, uniforms_TN = logits(6), np.random.default_rng(0).random((6, cut.samples))
    plain = compress(scores_TV, cut, support=SUPPORT, uniforms_TN=uniforms_TN)
    ones = compress(scores_TV, cut, support=SUPPORT, asked_T=np.ones(6), uniforms_TN=uniforms_TN)
    assert_same_rows(ones, plain)
    mixed = compress(
        scores_TV, cut, support=SUPPORT, asked_T=np.array(TEMPERATURES), uniforms_TN=uniforms_TN
    )
    at_1 = np.flatnonzero(np.array(TEMPERATURES) == 1.0)
    assert_same_rows(mixed.take(at_1), plain.take(at_1))
    for row, asked in enumerate(TEMPERATURES):
        alone = compress(
            scores_TV[row : row + 1],
            cut,
            support=SUPPORT,
            asked_T=np.array([asked]),
            uniforms_TN=uniforms_TN[row : row + 1],
        )
        np.testing.assert_array_equal(alone.ids_E, mixed.take(np.array([row])).ids_E)


def work_at(temperature: float, compression: Compression, inputs: list[SequenceInput]) -> ScoreWork:
    return ScoreWork(columns_of(inputs), compression, 0, 0, 0, temperature)


def inputs_of(kind: str, number: int) -> list[SequenceInput]:
    rng = np.random.default_rng(number)
    return [
        SequenceInput.at_end(
            num_rows=min(length, 3) if kind == "dialogue" else 1,
            tokens=rng.integers(0, 200, length, dtype=np.int32),
            entities=rng.integers(0, tiny_teachers.NUM_ENTITIES, 3, dtype=np.int32),
            words=rng.integers(0, tiny_teachers.NUM_WORDS, 2, dtype=np.int32),
        )
        for length in rng.integers(1, 20, number)
    ]


@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
@pytest.mark.parametrize("cut", [CUTS[0], CUTS[3]], ids=str)
def test_requests_of_any_temperature_share_a_round_and_get_the_bytes_they_get_alone(
    kind: str, cut: Compression, teachers: dict[str, Teacher]
) -> None:
    teacher, limits = teachers[kind], dataclasses.replace(BatchLimits(), **ALONE)
    works = [work_at(it, cut, inputs_of(kind, 3)) for it in (1.0, 2.0, 4.0, 0.5)]

    def blocks(some: list[ScoreWork]) -> list[bytes]:
        return [codec.encode(it, FLOAT32) for it in score_together(teacher.score, some, limits)]

    together = blocks(works)
    assert together == [blocks([work])[0] for work in works]
    assert together[::-1] == blocks(works[::-1])
    assert len(set(together)) == len(works)
    # And without the temperature of a request nothing changes.
    plain = ScoreWork(works[0].columns, cut, 0, 0, 0)
    assert blocks([plain]) == together[:1]


def test_draws_depend_on_the_temperature(teachers: dict[str, Teacher]) -> None:
    inputs = inputs_of("dialogue", 4)
    cut = Compression(samples=8, seed=3)
    hot = [dataclasses.replace(each, temperature=20.0) for each in inputs]
    warm = [dataclasses.replace(each, temperature=19.999999) for each in inputs]
    ids = [teachers["dialogue"].score(some, cut).ids_E.tolist() for some in (hot, hot, warm)]
    assert ids[0] == ids[1] != ids[2]


def test_sequences_of_unlike_temperature_are_not_merged() -> None:
    short, long = (
        SequenceInput.at_end(num_rows=1, tokens=np.arange(length, dtype=np.int32))
        for length in (3, 6)
    )
    assert len(merge_sequences([short, long])) == 1
    (merged,) = merge_sequences([dataclasses.replace(it, temperature=2.0) for it in (short, long)])
    assert [it.temperature for it in merged.responses()] == [2.0, 2.0]
    assert len(merge_sequences([short, dataclasses.replace(long, temperature=2.0)])) == 2


def test_our_teachers_say_which_temperatures_they_take(
    teachers: dict[str, Teacher], tmp_path: Path
) -> None:
    for teacher in teachers.values():
        assert temperature_range(teacher.description) == (0.25, 20.0)
