"""Inputs of KGSF's transformer."""

from __future__ import annotations

import numpy as np

from trainer.data.model_input import ExampleInput, ModelInput, collate


def given(
    tokens: list[int], num_targets: int, entities: list[int], words: list[int]
) -> ExampleInput:
    tokens_, entities_, words_ = (np.array(ids, np.int32) for ids in (tokens, entities, words))
    return ExampleInput(num_targets=num_targets, tokens=tokens_, entities=entities_, words=words_)


EXAMPLES = (
    given([5, 6, 7, 0, 8, 9, 10], 4, [3, 4, 40], [1, 2, 2]),
    given([11, 0, 12], 2, [], [8]),
    # Nothing before the response, no entity, no word.
    given([0, 9], 2, [], []),
    given([3] * 12, 1, [49], []),
)


def batch(*examples: ExampleInput) -> ModelInput:
    return collate(examples, pad_id=0)
