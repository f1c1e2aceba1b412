from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chain_examples import dialogue, dialogues, example
from trainer.data.chains import (
    continues,
    find_chains,
    input_length,
    longest_first,
)
from trainer.data.examples import Example

# Few tokens, so that contexts without their heads sometimes begin as others do.
TURNS = st.lists(st.lists(st.integers(1, 2), max_size=4), min_size=2, max_size=9)
CORPORA = st.lists(st.tuples(st.sampled_from("ab"), TURNS), max_size=4)


def input_of(it: Example) -> list[int]:
    return [*it.context_ids.tolist(), *it.response_ids.tolist()[:-1]]


def is_chain(examples: list[Example]) -> bool:
    return all(
        before.example_id.split(":")[0] == after.example_id.split(":")[0]
        and after.context_ids.tolist()[: len(input_of(before))] == input_of(before)
        for before, after in itertools.pairwise(examples)
    )


def slow_chains(examples: list[Example]) -> set[tuple[int, ...]]:
    """All runs that are chains, but for those inside of another."""
    count = len(examples)
    runs = [range(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    found = [set(run) for run in runs if is_chain(examples[run.start : run.stop])]
    return {tuple(sorted(it)) for it in found if not any(it < other for other in found)}


@settings(deadline=None)
@given(CORPORA, st.integers(1, 40), st.integers(2, 6))
def test_find_chains_equals_the_longest_of_all_runs(
    corpus: list[tuple[str, list[list[int]]]], max_context: int, max_response: int
) -> None:
    examples: list[Example] = []
    for dialogue_id, turns in corpus:
        examples += dialogue(dialogue_id, turns, max_context=max_context, max_response=max_response)
    chains = find_chains(examples)
    assert [i for chain in chains for i in chain] == list(range(len(examples)))
    assert {tuple(chain) for chain in chains} == slow_chains(examples)
    for chain in chains:
        longest = input_of(examples[chain[-1]])
        assert input_length(examples[chain[-1]]) == len(longest)
        assert all(longest[: len(input_of(examples[i]))] == input_of(examples[i]) for i in chain)


def test_chain_is_a_dialogue_where_nothing_is_cut_off() -> None:
    chains = find_chains(dialogues([3, 1, 4]))
    assert chains == [range(0, 3), range(3, 4), range(4, 8)]
    assert find_chains([]) == []


def test_chain_survives_a_cut_response_and_ends_at_a_cut_context() -> None:
    turns = [[1], [2, 3, 4], [5], [6]]
    long_response = dialogue("d", turns, max_context=99, max_response=3)
    assert [it.response_ids.tolist() for it in long_response] == [[2, 3, 0], [6, 0]]
    assert find_chains(long_response) == [range(0, 2)]
    short_context = dialogue("d", turns, max_context=7, max_response=9)
    assert short_context[1].context_ids.tolist() == [0, 2, 3, 4, 0, 5, 0]
    assert find_chains(short_context) == [range(0, 1), range(1, 2)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (example("d:3", [1, 2, 3, 9], [4, 0]), True),
        (example("d:3", [1, 2, 3], [4, 0]), True),
        (example("d:3", [1, 2], [4, 0]), False),
        (example("d:3", [7, 2, 3, 9], [4, 0]), False),
        (example("d:3", [1, 2, 7, 9], [4, 0]), False),
        (example("e:3", [1, 2, 3, 9], [4, 0]), False),
        (example("d:2:3", [1, 2, 3, 9], [4, 0]), False),
    ],
)
def test_example_continues_one_whose_input_its_context_begins_with(
    after: Example, expected: bool
) -> None:
    assert continues(example("d:1", [1, 2], [3, 0]), after) is expected


def test_longest_chains_come_first_and_stay_whole() -> None:
    examples = dialogues([1, 4, 2, 4])
    ordered = longest_first(examples, in_chains=True)
    assert sorted(map(id, ordered)) == sorted(map(id, examples))
    chains = find_chains(ordered)
    assert sorted(map(len, chains)) == [1, 2, 4, 4]
    lengths = [input_length(ordered[chain[-1]]) for chain in chains]
    assert lengths == sorted(lengths, reverse=True)
    alone = [input_length(it) for it in longest_first(examples, in_chains=False)]
    assert alone == sorted(map(input_length, examples), reverse=True)
