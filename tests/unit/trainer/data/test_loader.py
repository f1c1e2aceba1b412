from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.padding import padding
from trainer.data.examples import Example
from trainer.data.loader import (
    LoaderConfig,
    batches,
    micro_batches,
    to_student_input,
)
from trainer.data.model_input import InputLimits, dialogue_input


@dataclass(frozen=True)
class SmallVocabulary:
    """Ids 0-9 are words, 10-12 items, then [REC], [GEN], <pad>."""

    first_item_id: int = 10
    num_items: int = 3
    rec_id: int = 13
    gen_id: int = 14
    pad_id: int = 15


def example(index: int, context: list[int], response: list[int]) -> Example:
    return Example(
        example_id=str(index),
        context_ids=np.array(context, np.int32),
        response_ids=np.array(response, np.int32),
        context_entities=np.empty(0, np.int32),
        context_words=np.empty(0, np.int32),
        gold_items=np.array([i - 10 for i in response if 10 <= i < 13], np.int32),
        is_recommendation=any(10 <= i < 13 for i in response),
    )


def many(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [example(i, [1] * int(rng.integers(1, 60)), [2, 0]) for i in range(count)]


def first_ids(world_size: int, steps: int, first_step: int = 0, count: int = 50) -> list[list[str]]:
    """Ids of the global batches, ranks joined."""
    ranks = []
    for rank in range(world_size):
        config = LoaderConfig(batch_size=4, seed=7, rank=rank, world_size=world_size)
        taken = itertools.islice(batches(many(count), config, first_step), steps)
        ranks.append([[e.example_id for e in batch.examples] for batch in taken])
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


def test_loader_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    assert first_ids(1, 30) == first_ids(2, 30) == first_ids(4, 30)


def test_loader_epoch_visits_every_example_at_most_once() -> None:
    epoch = list(itertools.chain(*first_ids(1, 12)))
    assert len(epoch) == len(set(epoch)) == 48


def test_loader_rank_keeps_its_examples_across_epochs() -> None:
    def of_rank(rank: int, first_step: int) -> set[str]:
        config = LoaderConfig(batch_size=4, seed=7, rank=rank, world_size=2)
        taken = itertools.islice(batches(many(48), config, first_step), 12)
        return {e.example_id for batch in taken for e in batch.examples}

    assert of_rank(0, 0) == of_rank(0, 12)
    assert of_rank(0, 0).isdisjoint(of_rank(1, 12))


def test_loader_epochs_are_shuffled_differently() -> None:
    ids = [frozenset(batch) for batch in first_ids(1, 24)]
    assert len(set(ids[:12]) & set(ids[12:])) < 6  # other companions, not only another order


def test_loader_example_meets_many_others_over_epochs() -> None:
    epochs = first_ids(1, 40 * 50, count=200)  # 50 steps an epoch, two to a bucket, four slots
    met = [set(batch) for batch in epochs if "17" in batch]
    assert len(met) == 40
    assert len(set().union(*met)) >= 7  # of the eight of its bucket


def test_loader_resumes_exactly_where_it_stopped() -> None:
    assert first_ids(2, 30)[17:] == first_ids(2, 13, first_step=17)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro"), [(16, 1, None), (16, 2, 4), (64, 2, None), (128, 4, 8)]
)
def test_loader_pads_less_than_a_tenth(batch_size: int, world_size: int, micro: int | None) -> None:
    # Many short examples and few long ones, as dialogues are.
    rng = np.random.default_rng(1)
    lengths = rng.gamma(2.0, 50.0, size=4096).astype(int).clip(4, 256)
    examples = [example(i, [1] * int(n), [2, 0]) for i, n in enumerate(lengths)]
    assert padding(examples, batch_size, world_size, micro) < 0.10


def test_loader_with_too_few_examples_is_refused() -> None:
    config = LoaderConfig(batch_size=4, seed=0, rank=0, world_size=1)
    with pytest.raises(ValueError, match=r"at least train.batch_size = 4, got 3"):
        next(batches(many(3), config))


def test_loader_batch_that_ranks_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by the number of ranks, got 4 and 3"):
        LoaderConfig(batch_size=4, seed=0, rank=0, world_size=3)


@pytest.mark.parametrize("action_tokens", [False, True])
def test_student_input_lines_up_with_labels(action_tokens: bool) -> None:
    examples = (example(0, [1, 2, 3], [4, 11, 0]), example(1, [5], [6, 0]))
    vocabulary = SmallVocabulary()
    inputs = to_student_input(examples, vocabulary, InputLimits(), action_tokens=action_tokens)  # type: ignore[arg-type]
    flat = inputs.model.input_ids_BL.flatten()
    seen = flat[inputs.model.hidden_index_P].tolist()
    # The state that predicts a token is the one that has read the token before it.
    if action_tokens:
        assert seen == [13, 4, 11, 14, 6]
        assert inputs.model.input_ids_BL.tolist() == [[1, 2, 3, 13, 4, 11], [5, 14, 6, 15, 15, 15]]
    else:
        assert seen == [3, 4, 11, 5, 6]
    positions = inputs.positions
    assert positions.labels_P.tolist() == [4, 11, 0, 6, 0]
    assert positions.example_P.tolist() == [0, 0, 0, 1, 1]
    assert positions.weight_P.tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)
    assert positions.is_item_P.tolist() == [False, True, False, False, False]


def test_dialogue_input_of_a_teacher_has_no_action_token_and_one_target_per_label() -> None:
    given = dialogue_input(example(0, [1, 2, 3], [4, 11, 0]), InputLimits())
    assert given.tokens.tolist() == [1, 2, 3, 4, 11]
    assert given.num_rows == 3


def test_micro_batches_keep_order_and_lose_nothing() -> None:
    config = LoaderConfig(batch_size=4, seed=0, rank=0, world_size=1)
    batch = next(batches(many(8), config))
    parts = micro_batches(batch, 3)
    assert [len(part) for part in parts] == [3, 1]
    assert tuple(itertools.chain(*parts)) == batch.examples
