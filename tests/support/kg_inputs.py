"""Inputs of KGSF's transformer."""

from __future__ import annotations

import numpy as np

from trainer.data.model_input import ModelInput, SequenceInput, collate


def given(tokens: list[int], num_rows: int, entities: list[int], words: list[int]) -> SequenceInput:
    tokens_, entities_, words_ = (np.array(ids, np.int32) for ids in (tokens, entities, words))
    return SequenceInput.at_end(num_rows=num_rows, tokens=tokens_, entities=entities_, words=words_)


EXAMPLES = (
    given([5, 6, 7, 0, 8, 9, 10], 4, [3, 4, 40], [1, 2, 2]),
    given([11, 0, 12], 2, [], [8]),
    # Nothing before the response, no entity, no word.
    given([0, 9], 2, [], []),
    given([3] * 12, 1, [49], []),
)


def batch(*examples: SequenceInput) -> ModelInput:
    return collate(examples, pad_id=0)
