"""Model input: of one sequence, and of a batch of them.

Student and teachers, in this process or behind gRPC, read the same three columns of an example;
`InputLimits` states which of them a model reads, and how much of each.

A sequence is read once for all responses of a dialogue that it holds: under causal attention what
predicts a response sees nothing behind it. So a context that begins with the example before it,
and its response, takes no forward of its own (`merge_sequences`).

B sequences, L padded input length, P response positions of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from protos.teacher_pb2 import Description
from trainer.data.action_form import ActionForm
from trainer.data.bags import Bags
from trainer.data.examples import Example, last_ids

RANGES = "ranges"
"""Capability of a teacher: rows at any tokens of a sequence."""


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """How much a model reads of one example; 0: nothing of that column."""

    max_tokens: int = 0
    """Longer inputs are refused: the data was prepared with a limit of its own."""
    max_entities: int = 0
    """The last entities of a context that are given."""
    max_words: int = 0
    """The last words of a context that are given."""
    takes_ranges: bool = False
    """Whether predictions may be wanted at any tokens, not at the last ones alone: one sequence may
    hold several responses."""
    actions: ActionForm | None = None
    """Where it reads action tokens, and whether it predicts them; None: it reads none."""

    @classmethod
    def of(cls, description: Description) -> InputLimits:
        """What the described teacher takes; rows of action tokens are never asked for."""
        first, number = description.first_item_id, description.num_items
        actions = ActionForm.of(description.capabilities, range(first, first + number))
        return cls(
            max_tokens=description.max_tokens,
            max_entities=description.max_entities,
            max_words=description.max_words,
            takes_ranges=RANGES in description.capabilities,
            actions=None if actions is None else replace(actions, is_predicted=False),
        )


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


def reads_dialogues(limits: InputLimits) -> bool:
    """Whether a model reads the responses of a dialogue in one sequence.

    An action token that stands before the response alone is in no later context.
    """
    return limits.takes_ranges and (limits.actions is None or limits.actions.in_history)


class RowRange(NamedTuple):
    """The tokens [start, start + length), at each of which a prediction is wanted."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The token behind it."""
        return self.start + self.length


ONE_ROW = (RowRange(0, 1),)
"""What is wanted of a model that reads no tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceInput:
    """The columns of one sequence, and where predictions are wanted.

    Attributes:
        ranges: one for each response that it holds, in order, disjoint; ONE_ROW without tokens.
        tokens: int32 [L], context and action tokens if any, and response but for its last token.
        entities: int32, entities of the context.
        words: int32, words of the context.
        temperature: what a teacher's own distribution is softened by, in the rows wanted.
    """

    ranges: tuple[RowRange, ...]
    tokens: np.ndarray = field(default_factory=_none)
    entities: np.ndarray = field(default_factory=_none)
    words: np.ndarray = field(default_factory=_none)
    temperature: float = 1.0

    @classmethod
    def at_end(
        cls,
        *,
        num_rows: int,
        tokens: np.ndarray,
        entities: np.ndarray | None = None,
        words: np.ndarray | None = None,
    ) -> SequenceInput:
        """A sequence of one response, whose predictions are made at its last tokens."""
        return cls(
            ranges=(RowRange(len(tokens) - num_rows, num_rows),),
            tokens=tokens,
            entities=_none() if entities is None else entities,
            words=_none() if words is None else words,
        )

    @property
    def num_rows(self) -> int:
        """Predictions that are wanted."""
        return sum(length for _, length in self.ranges)

    @property
    def size(self) -> int:
        """Its share of a device batch's budget: ids of all columns, at least 1."""
        return max(1, len(self.tokens) + len(self.entities) + len(self.words))

    def responses(self) -> Iterator[SequenceInput]:
        """A sequence for each range: with the tokens until its end, as if it was alone."""
        for each in self.ranges:
            yield replace(self, ranges=(each,), tokens=self.tokens[: each.end])


def merge_sequences(inputs: Sequence[SequenceInput]) -> list[SequenceInput]:
    """The same predictions, in the same order, of fewer sequences.

    An input joins the one before it whose tokens it begins with. Inputs with entities or words stay
    alone: those are of one context.
    """
    merged: list[SequenceInput] = []
    for each in inputs:
        if merged and _continues(each, merged[-1]):
            merged[-1] = replace(each, ranges=(*merged[-1].ranges, *each.ranges))
        else:
            merged.append(each)
    return merged


def _continues(later: SequenceInput, earlier: SequenceInput) -> bool:
    length = len(earlier.tokens)
    return (
        not any(map(len, (earlier.entities, earlier.words, later.entities, later.words)))
        and later.temperature == earlier.temperature
        and 0 < length <= later.ranges[0].start
        and np.array_equal(later.tokens[:length], earlier.tokens)
    )


def dialogue_input(example: Example, limits: InputLimits) -> SequenceInput:
    """Input of a language model that predicts every token of the response.

    The rows wanted are one for each of these tokens, and one before them for the action token if
    the model predicts it.
    """
    is_predicted = limits.actions is not None and limits.actions.is_predicted
    prompt = _prompt_ids(example, limits, recommends=example.is_recommendation)
    return SequenceInput.at_end(
        num_rows=len(example.response_ids) + is_predicted,
        tokens=np.concatenate([prompt, example.response_ids[:-1]]),
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


def prompt_input(
    example: Example, limits: InputLimits, *, recommends: bool | None = None
) -> SequenceInput:
    """Input of a language model that predicts the first token of a response.

    With action tokens, that is the first one behind the token of `recommends`; None: that token. If
    the model has predicted it, the rows wanted begin before it, as in training.
    """
    form = limits.actions
    has_predicted = form is not None and form.is_predicted and recommends is not None
    return SequenceInput.at_end(
        num_rows=1 + has_predicted,
        tokens=_prompt_ids(example, limits, recommends=recommends),
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


def _prompt_ids(example: Example, limits: InputLimits, *, recommends: bool | None) -> np.ndarray:
    """What stands before a response: its context, and the action token unless it is None."""
    form = limits.actions
    if form is None:
        return example.context_ids
    context_ids = form.history(example.context_ids, continues_turn=example.continues_turn)
    if recommends is None:
        return context_ids
    return np.append(context_ids, np.int32(form.token(recommends=recommends)))


def recommendation_input(example: Example, limits: InputLimits) -> SequenceInput:
    """Input of a recommender that predicts the items of a response."""
    return SequenceInput(
        ranges=ONE_ROW,
        entities=last_ids(example.context_entities, limits.max_entities),
        words=last_ids(example.context_words, limits.max_words),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInput:
    """The input of a language model: one batch.

    Attributes:
        input_ids_BL: int64 [B, L], right-padded.
        lengths_B: int64 [B], tokens of each sequence.
        num_rows_B: int64 [B], predictions of each sequence; for a model that takes no ranges they
            are made at its last tokens.
        hidden_index_P: int64 [P], rows of the flattened [B * L] positions that predict.
        entities, words: empty bags for a model that takes none.
    """

    input_ids_BL: Tensor
    lengths_B: Tensor
    num_rows_B: Tensor
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
            num_rows_B=change(self.num_rows_B),
            hidden_index_P=change(self.hidden_index_P),
            entities=self.entities.map(change),
            words=self.words.map(change),
        )


def collate(inputs: Sequence[SequenceInput], *, pad_id: int) -> ModelInput:
    """A batch of at least one sequence; each has at least one token, and its ranges within."""
    lengths = np.array([len(each.tokens) for each in inputs])
    width = int(lengths.max())
    input_ids_BL = np.full((len(inputs), width), pad_id, np.int64)
    for row_L, each in zip(input_ids_BL, inputs, strict=True):
        row_L[: len(each.tokens)] = each.tokens
    index = [
        np.arange(row * width + wanted.start, row * width + wanted.end)
        for row, each in enumerate(inputs)
        for wanted in each.ranges
    ]
    return ModelInput(
        input_ids_BL=torch.from_numpy(input_ids_BL),
        lengths_B=torch.from_numpy(lengths),
        num_rows_B=torch.tensor([each.num_rows for each in inputs]),
        hidden_index_P=torch.from_numpy(np.concatenate(index)),
        entities=Bags.of([each.entities for each in inputs]),
        words=Bags.of([each.words for each in inputs]),
    )
