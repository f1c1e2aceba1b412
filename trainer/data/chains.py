"""Chains: examples of one dialogue of which a causal model needs the last one's input alone.

The input of an example is its context and its response but for the last token. Where that is how
the context of the next example begins, the hidden states of the first are among those of the
second: one forward of the chain's last input has the rows of every example of the chain. A chain
ends where `max_context` has cut the head off a context: from there each example stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.examples import Example

Chain = range
"""Indices of examples that follow each other; a part of a chain is a chain."""


def continues(before: Example, after: Example) -> bool:
    """Whether the input of `before` is how the context of `after` begins, in one dialogue."""
    if dialogue_id(before) != dialogue_id(after):
        return False
    start, end = len(before.context_ids), input_length(before)
    # The last id of a response is a label only.
    return (
        len(after.context_ids) >= end
        and np.array_equal(after.context_ids[:start], before.context_ids)
        and np.array_equal(after.context_ids[start:end], before.response_ids[:-1])
    )


def find_chains(examples: Sequence[Example]) -> list[Chain]:
    """All examples, in order, as the longest chains: each continues the one before it."""
    starts = [
        index
        for index, example in enumerate(examples)
        if index == 0 or not continues(examples[index - 1], example)
    ]
    ends = [*starts[1:], len(examples)]
    # No example: no start, and one end.
    return [range(start, end) for start, end in zip(starts, ends, strict=False)]


def longest_first(examples: Sequence[Example], *, in_chains: bool) -> list[Example]:
    """The examples by length, for little padding.

    Args:
        examples: of whole dialogues, in order.
        in_chains: keep those of a chain together, for a model that reads it in one forward.
    """
    if not in_chains:
        return sorted(examples, key=lambda it: -input_length(it))
    chains = sorted(find_chains(examples), key=lambda it: -input_length(examples[it[-1]]))
    return [examples[index] for chain in chains for index in chain]


def input_length(example: Example) -> int:
    """Tokens of an example's input, and of a chain's if it is its last: no action token."""
    return len(example.context_ids) + len(example.response_ids) - 1


def dialogue_id(example: Example) -> str:
    """The id of an example's dialogue."""
    return example.example_id.rsplit(":", 1)[0]
