"""Whole and well-formed answers to another request, each refused with the reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from protos import codec, teacher_pb2
from protos.codec import WireError
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression
from teacher_server.scoring.compress import Support, compress
from trainer.teacher_client.expected_rows import ExpectedRows

VOCAB = 40
ITEMS = Support(vocab_size=VOCAB, first_id=30, first_item_column=0, num_items=7)
WORDS = Support(vocab_size=VOCAB, first_id=0, first_item_column=30, num_items=7)
TOP = Compression(top_k=4)


def block(
    cut: Compression, support: Support = WORDS, *, rows: int = 3, values: int = codec.UINT8
) -> bytes:
    size = support.num_items if support is ITEMS else VOCAB
    scores = torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
    uniforms = np.random.default_rng(0).random((rows, cut.samples)) if cut.samples else None
    return codec.encode(compress(scores, cut, support=support, uniforms_TN=uniforms), values)


def expected(cut: Compression, support: Support = WORDS) -> ExpectedRows:
    return ExpectedRows(
        compression=teacher_pb2.Compression(
            top_k=cut.top_k, top_p=cut.top_p, samples=cut.samples, values=teacher_pb2.UINT8
        ),
        vocab_size=VOCAB,
        support=range(30, 37) if support is ITEMS else range(VOCAB),
        items=range(30, 37),
    )


@pytest.mark.parametrize("support", [WORDS, ITEMS], ids=["dialogue", "recommendation"])
@pytest.mark.parametrize(
    "cut",
    [
        TOP,
        Compression(),
        Compression(top_k=99),
        Compression(top_p=0.6),
        Compression(top_k=3, top_p=0.9),
        Compression(samples=5),
    ],
    ids=str,
)
def test_answers_of_every_cut_are_as_expected(cut: Compression, support: Support) -> None:
    rows = expected(cut, support).decode(block(cut, support), 3)
    assert rows.counts_R.max() <= expected(cut, support).max_entries


def test_row_whose_other_ids_are_impossible_may_be_short() -> None:
    scores = torch.full((1, VOCAB), -torch.inf)
    scores[0, [3, 8]] = 0.0
    short = codec.encode(compress(scores, TOP, support=WORDS), codec.UINT8)
    assert expected(TOP).decode(short, 1).counts_R.tolist() == [2]


def test_item_mass_of_an_answer_must_fit_its_entries() -> None:
    rows = expected(TOP).decode(block(TOP), 3)
    # Above the kept items and the tail by more than any rounding.
    mass_R = np.minimum(rows.item_mass_R + rows.tail_R + 0.2, 1.0)
    wrong = codec.encode(dataclasses.replace(rows, masses={ITEM_MASS: mass_R}), codec.UINT8)
    with pytest.raises(WireError, match=r"item mass of a row must be in \["):
        expected(TOP).decode(wrong, 3)


@pytest.mark.parametrize("cut", [TOP, Compression(samples=5)], ids=str)
def test_answer_without_an_item_mass_is_refused(cut: Compression) -> None:
    rows = expected(cut).decode(block(cut), 3)
    other = {"cast": rows.item_mass_R}
    wrong = codec.encode(dataclasses.replace(rows, masses=other), codec.UINT8)
    with pytest.raises(WireError, match="must have the mass 'item_mass', got cast"):
        expected(cut).decode(wrong, 3)


@pytest.mark.parametrize(
    ("answer", "asked", "why"),
    [
        (
            block(Compression(top_k=3)),
            expected(TOP),
            "a row of 3 entries, .* must have a tail of at most",
        ),
        (
            block(Compression(top_k=5)),
            expected(TOP),
            r"max_entries=12, .* got 15 entries",
        ),
        (
            block(Compression(top_p=0.5)),
            expected(Compression(top_p=0.9)),
            "must have a tail of at most 0.100",
        ),
        (block(TOP), expected(Compression(samples=4)), "must have a tail of at most 0.000"),
        (block(TOP), expected(TOP, ITEMS), r"the teacher's support \[30, 37\), got"),
        (block(TOP, values=codec.FLOAT16), expected(TOP), "in format 3, got format 2"),
        (block(TOP)[:-1], expected(TOP), "must have the checksum"),
    ],
    ids=["shorter", "longer", "less mass", "no draws", "words", "format", "torn"],
)
def test_answer_to_another_request_is_refused(answer: bytes, asked: ExpectedRows, why: str) -> None:
    with pytest.raises(WireError, match=why):
        asked.decode(answer, 3)


def test_one_long_row_among_short_ones_is_refused() -> None:
    rows = codec.decode(block(Compression(top_k=6), rows=1), num_rows=1, vocab_size=VOCAB)
    empty = dataclasses.replace(
        rows,
        counts_R=np.zeros(1, np.int32),
        ids_E=rows.ids_E[:0],
        log_probs_E=rows.log_probs_E[:0],
        tail_R=np.ones(1, np.float32),
    )
    mixed = codec.encode(codec.concat_rows([rows, empty]), codec.UINT8)
    with pytest.raises(WireError, match="rows must have at most 4 entries, got 6"):
        expected(TOP).decode(mixed, 2)


def test_answer_with_other_masses_is_the_same_without_them() -> None:
    rows = expected(TOP).decode(block(TOP), 3)
    more = dataclasses.replace(rows, masses={**rows.masses, "cast": rows.item_mass_R})
    read = expected(TOP).decode(codec.encode(more, codec.UINT8), 3)
    assert read.masses.keys() == {ITEM_MASS}
    codec.concat_rows([read, rows])
