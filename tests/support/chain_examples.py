"""Examples of dialogues that are as long as a test says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.examples import Example


def example(example_id: str, context: Sequence[int], response: Sequence[int]) -> Example:
    """An example of tokens alone."""
    nothing = np.empty(0, np.int32)
    return Example(
        example_id=example_id,
        context_ids=np.array(context, np.int32),
        response_ids=np.array(response, np.int32),
        context_entities=nothing,
        context_words=nothing,
        gold_items=nothing,
    )


def dialogue(
    dialogue_id: str, turns: Sequence[Sequence[int]], *, max_context: int, max_response: int
) -> list[Example]:
    """The examples of a dialogue: every second turn is a response; 0 ends a turn."""
    examples, said = [], []
    for number, turn in enumerate(turns):
        if number % 2:
            response = [*turn[: max_response - 1], 0]
            examples.append(example(f"{dialogue_id}:{number}", said[-max_context:], response))
        said += [*turn, 0]
    return examples


def dialogues(sizes: Sequence[int], seed: int = 0) -> list[Example]:
    """A chain of so many examples for each number, with turns of 1 to 8 tokens."""
    rng = np.random.default_rng(seed)
    found: list[Example] = []
    for index, size in enumerate(sizes):
        turns = [rng.integers(1, 9, rng.integers(1, 9)).tolist() for _ in range(2 * size)]
        found += dialogue(str(index), turns, max_context=1 << 20, max_response=1 << 20)
    return found
