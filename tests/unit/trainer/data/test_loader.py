from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.chain_examples import dialogues
from tests.support.padding import padding
from trainer.config.run import Group
from trainer.data.action_form import ActionForm
from trainer.data.chains import find_chains, input_length
from trainer.data.examples import Example
from trainer.data.loader import Batch, LoaderConfig, batches, to_student_input
from trainer.data.model_input import InputLimits, dialogue_input
from trainer.data.response_order import assign_slots, epoch_order

GROUPS: list[Group] = ["dialogue", "response"]
by_group = pytest.mark.parametrize("group", GROUPS)


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


def corpus(count: int) -> list[Example]:
    """So many examples, in dialogues of 1 to 7 responses."""
    sizes = np.random.default_rng(0).integers(1, 8, count).tolist()
    return dialogues(sizes)[:count]


def batches_of(
    examples: list[Example],
    steps: int,
    first_step: int = 0,
    *,
    rank: int = 0,
    world_size: int = 1,
    group: Group = "dialogue",
    micro: int | None = None,
    batch_size: int = 8,
) -> list[Batch]:
    config = LoaderConfig(
        batch_size=batch_size,
        seed=7,
        rank=rank,
        world_size=world_size,
        group=group,
        micro_batch_size=micro,
    )
    return list(itertools.islice(batches(examples, config, first_step), steps))


def ids(batch: Batch) -> list[list[str]]:
    return [[it.example_id for it in part] for part in batch.parts]


def global_ids(
    examples: list[Example],
    steps: int,
    world_size: int = 1,
    micro: int | None = None,
    *,
    group: Group = "dialogue",
) -> list[list[str]]:
    """Ids of the global batches, ranks joined and sorted."""
    ranks = [
        batches_of(examples, steps, rank=rank, world_size=world_size, micro=micro, group=group)
        for rank in range(world_size)
    ]
    return [
        sorted(it.example_id for batch in of_ranks for it in batch.examples)
        for of_ranks in zip(*ranks, strict=True)
    ]


@by_group
@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_loader_global_batches_depend_on_neither_ranks_nor_micro_batches(
    group: Group, world_size: int, micro: int | None
) -> None:
    examples = corpus(101)
    expected = global_ids(examples, 30, group=group)
    assert global_ids(examples, 30, world_size, micro, group=group) == expected
    assert all(len(set(batch)) == 8 for batch in expected)


@by_group
def test_loader_epoch_visits_every_example_at_most_once(group: Group) -> None:
    epoch = list(itertools.chain(*global_ids(corpus(101), 12, group=group)))
    assert len(epoch) == len(set(epoch)) == 96


@pytest.mark.parametrize(("world_size", "micro"), [(1, None), (2, None), (2, 2), (4, 1)])
def test_loader_ranks_have_as_many_parts_none_of_them_empty(
    world_size: int, micro: int | None
) -> None:
    for rank in range(world_size):
        for batch in batches_of(corpus(101), 24, rank=rank, world_size=world_size, micro=micro):
            assert len(batch.parts) == (8 // world_size) // (micro or 8 // world_size)
            assert all(batch.parts)


def test_loader_by_dialogue_keeps_chains_together_in_their_order() -> None:
    examples = corpus(300)
    place = {it.example_id: index for index, it in enumerate(examples)}
    num_pieces = 0
    for rank in range(2):
        for batch in batches_of(examples, 9, rank=rank, world_size=2, micro=8, batch_size=32):
            for part in ids(batch):
                places = [place[it] for it in part]
                assert places == sorted(places)
            num_pieces += sum(len(find_chains(part)) for part in batch.parts)
    # Single responses would be 288 pieces.
    assert num_pieces <= len(find_chains(examples)) + 10


def test_loader_by_response_cuts_the_rank_s_run_of_slots() -> None:
    examples = corpus(101)
    lengths = np.array([input_length(it) for it in examples])
    slots = assign_slots(lengths, 8, 7)
    rows = np.concatenate([epoch_order(slots, lengths, 12, 7, epoch) for epoch in (0, 1)])
    for rank in (0, 1):
        found = batches_of(examples, 24, rank=rank, world_size=2, micro=3, group="response")
        for batch, row in zip(found, rows, strict=True):
            mine = [examples[i].example_id for i in row[4 * rank : 4 * rank + 4]]
            assert ids(batch) == [mine[:3], mine[3:]]
            assert [it.example_id for it in batch.examples] == mine


def test_loader_by_response_keeps_a_rank_s_examples_across_epochs() -> None:
    def of_rank(rank: int, first_step: int) -> set[str]:
        found = batches_of(corpus(96), 12, first_step, rank=rank, world_size=2, group="response")
        return {it.example_id for batch in found for it in batch.examples}

    assert of_rank(0, 0) == of_rank(0, 12)
    assert of_rank(0, 0).isdisjoint(of_rank(1, 12))


def test_loader_by_dialogue_keeps_most_of_a_rank_s_examples_across_epochs() -> None:
    examples = corpus(1000)

    def of_rank(rank: int, first_step: int) -> set[str]:
        found = batches_of(examples, 15, first_step, rank=rank, world_size=2, batch_size=64)
        return {it.example_id for batch in found for it in batch.examples}

    stayed = len(of_rank(0, 0) & of_rank(0, 15)) + len(of_rank(1, 0) & of_rank(1, 15))
    assert stayed > 0.75 * len(examples)


@by_group
def test_loader_epochs_are_shuffled_differently(group: Group) -> None:
    found = [frozenset(batch) for batch in global_ids(corpus(101), 24, group=group)]
    assert len(set(found[:12]) & set(found[12:])) < 6  # other companions, not only another order


def test_loader_by_response_example_meets_many_others_over_epochs() -> None:
    examples = many(200)  # 50 steps an epoch, two to a bucket, four slots
    found = batches_of(examples, 40 * 50, group="response", batch_size=4)
    met = [set(ids(batch)[0]) for batch in found if "17" in ids(batch)[0]]
    assert len(met) == 40
    assert len(set().union(*met)) >= 7  # of the eight of its bucket


@by_group
def test_loader_resumes_exactly_where_it_stopped(group: Group) -> None:
    of_rank = functools.partial(batches_of, corpus(101), rank=1, world_size=2, micro=2, group=group)
    whole, resumed = of_rank(30), of_rank(13, first_step=17)
    assert [(it.step, ids(it)) for it in resumed] == [(it.step, ids(it)) for it in whole[17:]]


@by_group
@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro"), [(16, 1, None), (16, 2, 4), (64, 2, None), (128, 4, 8)]
)
def test_loader_pads_less_than_a_tenth(
    batch_size: int, world_size: int, micro: int | None, group: Group
) -> None:
    # Many short examples and few long ones, as dialogues are.
    rng = np.random.default_rng(1)
    lengths = rng.gamma(2.0, 50.0, size=4096).astype(int).clip(4, 256)
    examples = [example(i, [1] * int(n), [2, 0]) for i, n in enumerate(lengths)]
    assert padding(examples, batch_size, world_size, micro, group=group) < 0.10


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
    actions = ActionForm(items=range(10, 13), eos_id=0) if action_tokens else None
    inputs = to_student_input(examples, vocabulary, InputLimits(actions=actions))  # type: ignore[arg-type]
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
