"""What a model reads: of one example, and of a batch of them.

Student and teachers, in this process or behind a wire, are given the same three columns of an
example; `InputLimits` says which of them a model takes, and how much of each.

B examples, L padded input length, P response positions of all examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from protos.teacher_pb2 import Description
from trainer.data.bags import Bags
from trainer.data.examples import Example, last_ids


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """How much a model takes of one example; 0: nothing of that column."""

    max_tokens: int = 0
    """Longer inputs are refused: the data was prepared with a limit of its own."""
    max_entities: int = 0
    """Of a context's entities the last so many are given."""
    max_words: int = 0
    """Of a context's words the last so many are given."""

    @classmethod
    def of(cls, description: Description) -> InputLimits:
        """What the described model takes."""
        return cls(
            max_tokens=description.max_tokens,
            max_entities=description.max_entities,
            max_words=description.max_words,
        )


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleInput:
    """What is given of one example.

    Attributes:
        num_targets: predictions wanted: at the last so many tokens, or 1 of a recommender.
        tokens: int32 [L], context, action token if any, and response but for its last token.
        entities: int32, entities of the context.
        words: int32, words of the context.
    """

    num_targets: int
    tokens: np.ndarray = field(default_factory=_none)
    entities: np.ndarray = field(default_factory=_none)
    words: np.ndarray = field(default_factory=_none)

    @property
    def size(self) -> int:
        """What it counts in a device batch: ids of all columns; at least 1."""
        return max(1, len(self.tokens) + len(self.entities) + len(self.words))


def dialogue_input(
    example: Example, limits: InputLimits, action_ids: Sequence[int] = ()
) -> ExampleInput:
    """What a language model reads of an example, to predict every token of its response."""
    action = np.array(action_ids, np.int32)
    return ExampleInput(
        num_targets=len(example.response_ids),
        tokens=np.concatenate([example.context_ids, action, example.response_ids[:-1]]),
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


def prompt_input(
    example: Example, limits: InputLimits, action_ids: Sequence[int] = ()
) -> ExampleInput:
    """What a language model reads of an example, to say the first token of a response."""
    return ExampleInput(
        num_targets=1,
        tokens=np.concatenate([example.context_ids, np.array(action_ids, np.int32)]),
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


def recommendation_input(example: Example, limits: InputLimits) -> ExampleInput:
    """What a recommender reads of an example, to predict its items."""
    return ExampleInput(
        num_targets=1,
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInput:
    """A batch as a language model reads it.

    Attributes:
        input_ids_BL: int64 [B, L], right-padded.
        lengths_B: int64 [B], tokens of each example.
        num_targets_B: int64 [B]; the last so many tokens of an example predict.
        hidden_index_P: int64 [P], rows of the flattened [B * L] positions that predict.
        entities, words: empty bags for a model that takes none.
    """

    input_ids_BL: Tensor
    lengths_B: Tensor
    num_targets_B: Tensor
    hidden_index_P: Tensor
    entities: Bags
    words: Bags

    def to(self, device: torch.device) -> ModelInput:
        """The same on a device; from pinned memory the copies run beside what comes next."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ModelInput:
        """The same in memory that a CUDA device can fetch by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> ModelInput:
        return ModelInput(
            input_ids_BL=change(self.input_ids_BL),
            lengths_B=change(self.lengths_B),
            num_targets_B=change(self.num_targets_B),
            hidden_index_P=change(self.hidden_index_P),
            entities=self.entities.map(change),
            words=self.words.map(change),
        )


def collate(inputs: Sequence[ExampleInput], *, pad_id: int) -> ModelInput:
    """A batch of at least one example; each has at least one token, and so many as targets."""
    lengths = np.array([len(each.tokens) for each in inputs])
    num_targets = np.array([each.num_targets for each in inputs])
    width = int(lengths.max())
    input_ids_BL = np.full((len(inputs), width), pad_id, np.int64)
    for row_L, each in zip(input_ids_BL, inputs, strict=True):
        row_L[: len(each.tokens)] = each.tokens
    ends = np.arange(len(inputs)) * width + lengths
    index = [np.arange(end - n, end) for end, n in zip(ends, num_targets, strict=True)]
    return ModelInput(
        input_ids_BL=torch.from_numpy(input_ids_BL),
        lengths_B=torch.from_numpy(lengths),
        num_targets_B=torch.from_numpy(num_targets),
        hidden_index_P=torch.from_numpy(np.concatenate(index)),
        entities=Bags.of([each.entities for each in inputs]),
        words=Bags.of([each.words for each in inputs]),
    )
