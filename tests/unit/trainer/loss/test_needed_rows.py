"""Rows that are not asked for: which they are, and that the loss is the same without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.bench.wire.metered_fleet import Exchange, ask_metered
from cluster.bench.wire.traffic import load_teachers
from protos.target_rows import ITEM_MASS, TargetRows, Targets, no_rows
from tests.support import tiny_teachers
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.loader import Positions, to_student_input
from trainer.data.model_input import InputLimits
from trainer.data.prepared import load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.table import TEACHER_KINDS
from trainer.loss.conkd import PreparedTargets, prepare_targets
from trainer.loss.needed_rows import needed_examples, waits_for_dialogue
from trainer.loss.sparse_ce import sparse_cross_entropy_sum

RECOMMENDATION = TEACHER_KINDS["recommendation"]
LENGTHS = [2, 1, 3, 2]
Tail = Literal["bucket", "drop", "renormalise", "sampled"]


def rows_of_mass(mass_R: Sequence[float]) -> TargetRows:
    mass = np.array(mass_R, np.float32)
    empty = no_rows(9).spread(np.empty(0, np.int64), len(mass))
    return dataclasses.replace(empty, masses={ITEM_MASS: mass})


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_examples_that_need_a_row_are_found_position_by_position(eta: float) -> None:
    masses = np.random.default_rng(0).random(sum(LENGTHS)).astype(np.float32)
    masses[3] = np.float32(eta)
    expected, at = [], 0
    for example, length in enumerate(LENGTHS):
        if any(float(mass) >= np.float32(eta) for mass in masses[at : at + length]):
            expected.append(example)
        at += length
    config = DistillConfig(eta=eta)
    targets = {"dialogue": rows_of_mass(masses.tolist())}
    got = needed_examples(RECOMMENDATION, targets, LENGTHS, config)
    assert got.tolist() == expected


def test_only_a_hard_gate_and_one_row_for_a_response_wait_for_the_dialogue_teacher() -> None:
    soft, fixed = DistillConfig(gate="soft"), DistillConfig(gate="fixed", fixed_lambda=0.5)
    waiting = [
        (gate.gate, name)
        for gate in (DistillConfig(), soft, fixed)
        for name, kind in TEACHER_KINDS.items()
        if waits_for_dialogue(kind, gate)
    ]
    assert waiting == [("hard", "recommendation")]
    shared = dataclasses.replace(RECOMMENDATION, share=None)
    assert not waits_for_dialogue(shared, DistillConfig())


def test_spread_rows_are_absent_elsewhere_and_the_same_where_they_are() -> None:
    rows = TargetRows(
        counts_R=np.array([1, 2], np.int32),
        ids_E=np.array([4, 1, 3], np.int32),
        log_probs_E=np.log(np.array([0.5, 0.25, 0.25], np.float32)),
        tail_R=np.array([0.5, 0.5], np.float32),
        masses={ITEM_MASS: np.ones(2, np.float32)},
        vocab_size=9,
    )
    spread = rows.spread(np.array([1, 3]), 5)
    assert spread.is_absent_R.tolist() == [True, False, True, False, True]
    for name, array in spread.take(np.array([1, 3])).arrays.items():
        assert array.tobytes() == rows.arrays[name].tobytes()


def some_dialogues(vocabulary: Vocabulary) -> list[Example]:
    lengths = [1 + number % 6 for number in range(12)]
    return tiny_teachers.random_examples(vocabulary, lengths, seed=1)


class Twins:
    """The same micro-batch with all rows and with those that are needed."""

    def __init__(
        self, examples: list[Example], vocabulary: Vocabulary, folder: Path, tail: Tail
    ) -> None:
        tiny_teachers.write_teachers(folder, vocabulary)
        self.folders = {kind: folder / kind for kind in TEACHER_KINDS}
        self.examples, self.vocabulary = examples, vocabulary
        self.distill = DistillConfig(
            gamma=0.6, top_k=8, recommendation_top_k=8, tail=tail, values="float32"
        )
        whole, _ = self.ask(asks_all=True)
        # Random teachers give all positions about the same mass: a gate between them.
        eta = float(np.quantile(whole["dialogue"].item_mass_R, 0.85))
        self.distill = dataclasses.replace(self.distill, eta=eta)

    @property
    def positions(self) -> Positions:
        inputs = to_student_input(tuple(self.examples), self.vocabulary, InputLimits())
        return inputs.positions

    def ask(self, *, asks_all: bool) -> tuple[Targets, list[Exchange]]:
        (targets,), exchanges = ask_metered(
            [self.examples],
            load_teachers(self.folders),
            distill=self.distill,
            vocabulary=self.vocabulary,
            asks_all=asks_all,
        )
        return targets, exchanges

    def prepare(self, targets: Targets) -> PreparedTargets:
        first = self.vocabulary.first_item_id
        items = range(first, first + self.vocabulary.num_items)
        return prepare_targets(self.positions, targets, self.distill, items)

    def loss_and_gradients(self, targets: Targets) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        sizes = (len(self.positions.labels_P), 8), (self.vocabulary.size, 8)
        leaves = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
        loss, _ = sparse_cross_entropy_sum(leaves[0], leaves[1], self.prepare(targets).soft)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    def check(self) -> None:
        """Fewer rows and bytes, and of the same rows not one other bit of loss and gradients."""
        (whole, all_sent), (needed, sent) = (self.ask(asks_all=it) for it in (True, False))
        is_absent_R = needed["recommendation"].is_absent_R
        assert 0 < is_absent_R.sum() < len(self.examples)
        assert sum(it.num_rows for it in all_sent) - sum(it.num_rows for it in sent) == (
            is_absent_R.sum()
        )
        assert sum(it.reply_bytes for it in sent) < sum(it.reply_bytes for it in all_sent)
        (there,) = np.nonzero(~is_absent_R)
        same = whole["recommendation"].take(there).spread(there, len(self.examples))
        masked: Targets = {**whole, "recommendation": same}
        expected = self.loss_and_gradients(whole)
        for got, wanted in zip(self.loss_and_gradients(masked), expected, strict=True):
            assert torch.equal(got, wanted)
        # Scored in a smaller batch, a row may have other last digits.
        for got, wanted in zip(self.loss_and_gradients(needed), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tail", ["bucket", "drop", "renormalise", "sampled"])
def test_loss_and_gradients_are_the_same_bit_for_bit_without_unneeded_rows(
    tail: Tail, tmp_path: Path
) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    Twins(some_dialogues(vocabulary), vocabulary, tmp_path, tail).check()


@pytest.mark.everything
def test_so_they_are_on_real_dialogues(redial_prepared: Path, tmp_path: Path) -> None:
    data = load_prepared(redial_prepared)
    # Of the tiny recommender's few entities and words.
    examples = [
        dataclasses.replace(
            example,
            context_entities=example.context_entities % tiny_teachers.NUM_ENTITIES,
            context_words=example.context_words % tiny_teachers.NUM_WORDS,
            context_ids=example.context_ids[-30:],
        )
        for example in data.examples("valid")[:24]
        if len(example.response_ids) <= 32
    ]
    Twins(examples, data.vocabulary, tmp_path, "bucket").check()


def test_position_with_weight_and_no_row_is_refused(tmp_path: Path) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    twins = Twins(some_dialogues(vocabulary), vocabulary, tmp_path, "bucket")
    targets, _ = twins.ask(asks_all=False)
    rows = targets["recommendation"]
    there = np.flatnonzero(~rows.is_absent_R)
    fewer = rows.take(there[1:]).spread(there[1:], rows.num_rows)
    with pytest.raises(ValueError, match="recommendation rows must be there wherever they have"):
        twins.prepare({**targets, "recommendation": fewer})


def test_statistics_of_recommendation_rows_are_of_those_that_are_there(tmp_path: Path) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    twins = Twins(some_dialogues(vocabulary), vocabulary, tmp_path, "bucket")
    targets, _ = twins.ask(asks_all=False)
    rows = targets["recommendation"]
    statistics = twins.prepare(targets).statistics
    assert statistics is not None
    there = rows.take(np.flatnonzero(~rows.is_absent_R))
    assert statistics.recommendation_rows == there.num_rows
    kept = float((1.0 - there.tail_R).sum())
    assert statistics.recommendation_kept_mass == pytest.approx(kept)
    assert statistics.recommendation_entropy > 0.0
