"""Model input: of one example, and of a batch.

Student and teachers, in this process or behind gRPC, read the same three columns of an example;
`InputLimits` states which of them a model reads, and how much of each.

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
    """How much a model reads of one example; 0: nothing of that column."""

    max_tokens: int = 0
    """Longer inputs are refused: the data was prepared with a limit of its own."""
    max_entities: int = 0
    """The last entities of a context that are given."""
    max_words: int = 0
    """The last words of a context that are given."""

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
    """The columns of one example.

    Attributes:
        num_targets: number of predictions, made at the last tokens; 1 for a recommender.
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
        """Its share of a device batch's budget: ids of all columns, at least 1."""
        return max(1, len(self.tokens) + len(self.entities) + len(self.words))


def dialogue_input(
    example: Example, limits: InputLimits, action_ids: Sequence[int] = ()
) -> ExampleInput:
    """Input of a language model that predicts every token of the response."""
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
    """Input of a language model that predicts the first token of a response."""
    return ExampleInput(
        num_targets=1,
        tokens=np.concatenate([example.context_ids, np.array(action_ids, np.int32)]),
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


def recommendation_input(example: Example, limits: InputLimits) -> ExampleInput:
    """Input of a recommender that predicts the items of a response."""
    return ExampleInput(
        num_targets=1,
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInput:
    """The input of a language model: one batch.

    Attributes:
        input_ids_BL: int64 [B, L], right-padded.
        lengths_B: int64 [B], tokens of each example.
        num_targets_B: int64 [B], predictions of each example, made at its last tokens.
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
        """A copy on the device; from pinned memory the transfer is asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ModelInput:
        """A copy in page-locked memory, for asynchronous transfers to a CUDA device."""
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
    """A batch of at least one example; each has at least `num_targets` tokens, and one."""
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
