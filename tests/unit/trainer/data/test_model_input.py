"""One sequence for several responses, and what a model computes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.action_forms import form_of
from tests.support.tiny_teachers import tiny_vocabulary
from trainer.config.language_model import LanguageModelConfig
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ActionForm
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches, to_student_input
from trainer.data.model_input import (
    ONE_ROW,
    InputLimits,
    RowRange,
    SequenceInput,
    collate,
    dialogue_input,
    merge_sequences,
)
from trainer.data.prepared import PreparedData, load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.engine.student import Student
from trainer.loss import conkd
from trainer.models.causal_lm import CausalLanguageModel, build_causal_lm

ANYWHERE = InputLimits(takes_ranges=True)
AT_END = InputLimits()


def int32(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def at_end(num_rows: int, *tokens: int) -> SequenceInput:
    return SequenceInput.at_end(num_rows=num_rows, tokens=int32(*tokens))


def wanted_prefixes(inputs: Sequence[SequenceInput]) -> list[list[int]]:
    """The tokens that each prediction may see, in the order of the rows."""
    return [
        each.tokens[: token + 1].tolist()
        for each in inputs
        for wanted in each.ranges
        for token in range(wanted.start, wanted.end)
    ]


def test_merge_joins_an_input_to_the_one_that_it_begins_with() -> None:
    merged = merge_sequences([at_end(2, 1, 2, 3), at_end(2, 1, 2, 3, 4, 5, 6), at_end(1, 7)])
    assert [each.tokens.tolist() for each in merged] == [[1, 2, 3, 4, 5, 6], [7]]
    assert [each.ranges for each in merged] == [(RowRange(1, 2), RowRange(4, 2)), (RowRange(0, 1),)]


@pytest.mark.parametrize(
    "later",
    [at_end(1, 1, 2, 4, 5), at_end(3, 1, 2, 3, 4), at_end(1, 1, 2), at_end(1, 1, 2, 3)],
    ids=["another context", "rows of the earlier one's tokens", "shorter", "the same"],
)
def test_merge_keeps_apart_what_does_not_follow(later: SequenceInput) -> None:
    assert len(merge_sequences([at_end(1, 1, 2, 3), later])) == 2


def test_merge_leaves_inputs_with_entities_or_words_alone() -> None:
    one = SequenceInput.at_end(num_rows=1, tokens=int32(1), entities=int32(5))
    assert len(merge_sequences([one, at_end(1, 1, 2)])) == 2
    assert len(merge_sequences([at_end(1, 1), SequenceInput(ranges=ONE_ROW, words=int32(2))])) == 2
    assert len(merge_sequences([SequenceInput(ranges=ONE_ROW, entities=int32(5))] * 2)) == 2


@st.composite
def dialogues(draw: st.DrawFn) -> list[SequenceInput]:
    """Contexts and responses of a few dialogues over few tokens: many begin with one another."""
    inputs: list[SequenceInput] = []
    for _ in range(draw(st.integers(1, 4))):
        tokens: list[int] = []
        for _ in range(draw(st.integers(1, 5))):
            tokens += draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
            inputs.append(at_end(draw(st.integers(1, len(tokens))), *tokens))
    return inputs


@given(dialogues())
def test_merged_sequences_want_the_same_predictions_in_the_same_order(
    inputs: list[SequenceInput],
) -> None:
    merged = merge_sequences(inputs)
    assert wanted_prefixes(merged) == wanted_prefixes(inputs)
    for each in merged:
        ends = [wanted.end for wanted in each.ranges]
        assert all(wanted.start >= end for wanted, end in zip(each.ranges[1:], ends, strict=False))
        assert ends[-1] == len(each.tokens)
    apart = [response for each in merged for response in each.responses()]
    assert [each.tokens.tolist() for each in apart] == [each.tokens.tolist() for each in inputs]
    assert [each.ranges for each in apart] == [each.ranges for each in inputs]


def test_collated_ranges_index_the_flattened_batch() -> None:
    long, short = at_end(2, 1, 2, 3), at_end(1, 1, 2, 3, 4, 5)
    batch = collate([*merge_sequences([long, short]), at_end(1, 8, 9)], pad_id=0)
    assert batch.input_ids_BL.tolist() == [[1, 2, 3, 4, 5], [8, 9, 0, 0, 0]]
    assert batch.hidden_index_P.tolist() == [1, 2, 4, 6]
    assert batch.num_rows_B.tolist() == [3, 1]


def small_student(
    vocabulary: Vocabulary, num_positions: int
) -> tuple[CausalLanguageModel, Student]:
    torch.manual_seed(0)
    shape = LanguageModelConfig(
        num_layers=2, hidden_size=32, num_heads=2, max_positions=num_positions, dropout=0.0
    )
    model = build_causal_lm(shape, vocabulary)
    return model, Student(model, loss_chunk_size=7)


def loss_and_gradient(
    examples: tuple[Example, ...], vocabulary: Vocabulary, limits: InputLimits
) -> tuple[float, torch.Tensor, int]:
    """Loss, all gradients end to end, and the number of sequences."""
    longest = max(len(dialogue_input(it, limits).tokens) for it in examples)
    model, student = small_student(vocabulary, longest)
    inputs = to_student_input(examples, vocabulary, limits)
    loss, *_ = student(inputs.model, conkd.hard_targets(inputs.positions))
    loss.backward()
    gradients = [it.grad.flatten() for it in model.module.parameters() if it.grad is not None]
    return float(loss.detach()), torch.cat(gradients), len(inputs.model.lengths_B)


def assert_same_learning(
    examples: tuple[Example, ...], vocabulary: Vocabulary, actions: ActionForm | None
) -> None:
    forms = (replace(limits, actions=actions) for limits in (ANYWHERE, AT_END))
    one_pass, apart = (loss_and_gradient(examples, vocabulary, limits) for limits in forms)
    loss, gradient, num_sequences = one_pass
    twin_loss, twin_gradient, num_single = apart
    assert num_single == len(examples) > num_sequences
    assert loss == pytest.approx(twin_loss, rel=1e-5)
    assert float((gradient - twin_gradient).norm() / twin_gradient.norm()) < 1e-5


by_form = pytest.mark.parametrize(
    "names", [None, (ACTION_HISTORY,), (ACTION_HISTORY, ACTION_LOSS)], ids=str
)


def form_or_none(vocabulary: Vocabulary, names: tuple[str, ...] | None) -> ActionForm | None:
    return None if names is None else form_of(vocabulary, *names)


@by_form
def test_one_pass_per_dialogue_learns_what_one_per_response_does(
    prepared_dir: Path, names: tuple[str, ...] | None
) -> None:
    data = load_prepared(prepared_dir)
    actions = form_or_none(data.vocabulary, names)
    assert_same_learning(tuple(data.examples("train")[:24]), data.vocabulary, actions)


@pytest.mark.everything
@by_form
def test_one_pass_per_real_dialogue_learns_what_one_per_response_does(
    redial_prepared: Path, names: tuple[str, ...] | None
) -> None:
    data = load_prepared(redial_prepared)
    actions = form_or_none(data.vocabulary, names)
    assert_same_learning(tuple(data.examples("valid")[:40]), data.vocabulary, actions)


def test_action_tokens_keep_the_responses_of_a_dialogue_apart() -> None:
    vocabulary = tiny_vocabulary()
    first = example(int32(1, 0), int32(2, 0))
    second = example(int32(1, 0, 2, 0, 3, 0), int32(4, 0))
    for form, number in ((None, 1), (form_of(vocabulary), 2)):
        limits = replace(ANYWHERE, actions=form)
        inputs = to_student_input((first, second), vocabulary, limits)
        assert len(inputs.model.lengths_B) == number
        assert inputs.positions.labels_P.tolist() == [2, 0, 4, 0]


def example(context_ids: np.ndarray, response_ids: np.ndarray) -> Example:
    return Example(
        example_id="0:1",
        context_ids=context_ids,
        response_ids=response_ids,
        context_entities=int32(3),
        context_words=int32(),
        gold_items=int32(),
    )


def test_dialogue_inputs_of_a_dialogue_merge_across_a_response_that_was_cut() -> None:
    # The head of the first response is kept, and its end of text is a label alone.
    first = example(int32(1, 0), int32(2, 0))
    second = example(int32(1, 0, 2, 5, 6, 0, 3, 0), int32(4, 0))
    merged = merge_sequences([dialogue_input(it, AT_END) for it in (first, second)])
    assert [each.ranges for each in merged] == [(RowRange(1, 2), RowRange(7, 2))]


def gradient_of_step(
    data: PreparedData, *, world_size: int, micro_batch_size: int | None
) -> torch.Tensor:
    """The gradient of one global batch of 16, summed over its ranks and their forwards."""
    examples = data.examples("train")
    longest = max(len(it.context_ids) + len(it.response_ids) for it in examples)
    model, student = small_student(data.vocabulary, longest)
    for rank in range(world_size):
        loader = LoaderConfig(
            batch_size=16,
            seed=3,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
        )
        for part in next(batches(examples, loader)).parts:
            inputs = to_student_input(part, data.vocabulary, ANYWHERE)
            loss, *_ = student(inputs.model, conkd.hard_targets(inputs.positions))
            (loss / 16).backward()
    gradients = [it.grad.flatten() for it in model.module.parameters() if it.grad is not None]
    return torch.cat(gradients)


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(2, None), (4, None), (2, 2), (1, 1)])
def test_ranks_and_micro_batches_add_up_to_the_gradient_of_the_whole_batch(
    world_size: int, micro_batch_size: int | None, prepared_dir: Path
) -> None:
    data = load_prepared(prepared_dir)
    whole = gradient_of_step(data, world_size=1, micro_batch_size=None)
    parts = gradient_of_step(data, world_size=world_size, micro_batch_size=micro_batch_size)
    assert float((parts - whole).norm() / whole.norm()) < 1e-5
