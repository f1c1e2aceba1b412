"""From a list of examples to this rank's micro-batches of every global batch.

- A global batch has exactly `batch_size` examples, the same for any number of ranks and any size of
  micro-batches.
- The order is a pure function of (seed, step): the resume state is the step alone.
- Examples of similar length meet, so padding is small.
- An epoch has floor(n / batch_size) batches, so up to batch_size - 1 examples are left out of it;
  which ones changes with the epoch.

Grouped by dialogue, the examples of a chain (chains.py) stand next to each other in one
micro-batch, so that one forward of the dialogue has the rows of all of them. What is drawn is then
a dialogue (dialogue_order.py): its responses meet in one batch. They are more alike than as many
single responses, so the gradients of batches vary more; over an epoch the same examples are seen.
Grouped by response, each example is drawn on its own (response_order.py).

By response, a rank sees the same examples in every epoch. By dialogue, a chain comes to the rank of
its key as far as ranks stay balanced (chain_shares.py): of redial-mini's chains 80 % are on the
same one of two ranks in the next epoch at 32 responses a batch, 86 % at 64.

B examples of a micro-batch, P positions of what they predict, end to end, R of them without those
of action tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.common.errors import InputError
from trainer.config.run import Group
from trainer.data.action_form import ActionForm
from trainer.data.chain_shares import chain_keys, split
from trainer.data.chains import find_chains, input_length
from trainer.data.dialogue_order import epoch_batches
from trainer.data.examples import Example
from trainer.data.model_input import (
    InputLimits,
    ModelInput,
    collate,
    dialogue_input,
    merge_sequences,
    reads_dialogues,
)
from trainer.data.response_order import assign_slots, epoch_order
from trainer.data.vocabulary import Vocabulary

EpochParts = Callable[[int], Iterator[list[list[int]]]]
"""From an epoch to indices of examples, at [step][part of this rank][example]."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of the global batch of one step."""

    step: int
    parts: tuple[tuple[Example, ...], ...]
    """The micro-batches: as many on every rank, each with an example at least."""

    @property
    def examples(self) -> tuple[Example, ...]:
        """Those of all parts, in order."""
        return tuple(itertools.chain(*self.parts))


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What the order of the data depends on."""

    batch_size: int
    """Examples per global batch."""
    seed: int
    rank: int
    world_size: int
    group: Group = "dialogue"
    """What stays together in a micro-batch."""
    micro_batch_size: int | None = None
    """Examples per micro-batch, on average if grouped by dialogue; None: the rank's share."""

    @property
    def share(self) -> int:
        """Examples of a rank, on average if grouped by dialogue."""
        return self.batch_size // self.world_size

    @property
    def num_parts(self) -> int:
        """Micro-batches of a rank."""
        return -(-self.share // (self.micro_batch_size or self.share))

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise InputError(
                f"train.batch_size must be divisible by the number of ranks, got "
                f"{self.batch_size} and {self.world_size}. Change one of them."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """The response positions of one micro-batch, examples end to end.

    Attributes:
        labels_P: int64 [P], gold tokens.
        example_P: int64 [P], index of the example.
        weight_P: float32 [P], 1/T of the example (Eq. 5).
        is_item_P: bool [P], the gold token is an item.
        is_action_P: bool [P], it is an action token, which no teacher teaches; None: nowhere.
    """

    labels_P: Tensor
    example_P: Tensor
    weight_P: Tensor
    is_item_P: Tensor
    is_action_P: Tensor | None = None

    def of_response(self, values_P: Tensor) -> Tensor:
        """The values at the response's own tokens, [R], on whatever device they are."""
        if self.is_action_P is None:
            return values_P
        return values_P[~self.is_action_P.to(values_P.device)]

    @property
    def response_row_P(self) -> Tensor:
        """Of each position its place among the response's own tokens, int64 [P].

        Where an action token is predicted it is that of the response's first token.
        """
        if self.is_action_P is None:
            return torch.arange(len(self.labels_P))
        is_response_P = (~self.is_action_P).long()
        return is_response_P.cumsum(0) - is_response_P


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentInput:
    """A micro-batch for the student: its input, and the response positions to be learnt."""

    model: ModelInput
    positions: Positions


def batches(examples: list[Example], config: LoaderConfig, first_step: int = 0) -> Iterator[Batch]:
    """This rank's batches from `first_step` on, without end; a run resumes at `step + 1`.

    Raises:
        InputError: if there are fewer examples than one global batch needs.
    """
    if len(examples) < config.batch_size:
        raise InputError(
            f"training examples must be at least train.batch_size = {config.batch_size}, "
            f"got {len(examples)}. Use a smaller batch or more data."
        )
    of_epoch = (_by_dialogue if config.group == "dialogue" else _by_response)(examples, config)
    first_epoch, done = divmod(first_step, len(examples) // config.batch_size)
    steps = itertools.chain.from_iterable(map(of_epoch, itertools.count(first_epoch)))
    for step, parts in enumerate(itertools.islice(steps, done, None), first_step):
        yield Batch(step=step, parts=tuple(tuple(examples[i] for i in part) for part in parts))


def _by_response(examples: Sequence[Example], config: LoaderConfig) -> EpochParts:
    lengths = _input_lengths(examples)
    slots = assign_slots(lengths, config.batch_size, config.seed)
    epoch_steps = len(examples) // config.batch_size
    first, size = config.rank * config.share, config.micro_batch_size or config.share

    def of_epoch(epoch: int) -> Iterator[list[list[int]]]:
        for row in epoch_order(slots, lengths, epoch_steps, config.seed, epoch):
            mine = row[first : first + config.share].tolist()
            yield [mine[i : i + size] for i in range(0, len(mine), size)]

    return of_epoch


def _by_dialogue(examples: Sequence[Example], config: LoaderConfig) -> EpochParts:
    lengths, chains = _input_lengths(examples), find_chains(examples)
    keys = chain_keys(chains, config.seed)

    def of_epoch(epoch: int) -> Iterator[list[list[int]]]:
        size, seed = config.batch_size, config.seed
        for batch in epoch_batches(chains, lengths, batch_size=size, seed=seed, epoch=epoch):
            ranks = split(
                batch, lengths, keys, world_size=config.world_size, num_parts=config.num_parts
            )
            yield [list(itertools.chain(*part)) for part in ranks[config.rank]]

    return of_epoch


def _input_lengths(examples: Sequence[Example]) -> np.ndarray:
    return np.array([input_length(example) for example in examples])


def to_student_input(
    examples: tuple[Example, ...],
    vocabulary: Vocabulary,
    limits: InputLimits,
) -> StudentInput:
    """Collate a micro-batch; the student's step t is the teacher's step t by response index.

    Consecutive examples of a dialogue share a sequence where one goes on from the other; an action
    token that stands before the response alone is in no later context, and keeps them apart.
    """
    inputs = [dialogue_input(example, limits) for example in examples]
    if reads_dialogues(limits):
        inputs = merge_sequences(inputs)
    return StudentInput(
        model=collate(inputs, pad_id=vocabulary.pad_id),
        positions=_positions([_labels(each, limits.actions) for each in examples], vocabulary),
    )


def _labels(example: Example, form: ActionForm | None) -> np.ndarray:
    """What the student predicts, step by step."""
    if form is None or not form.is_predicted:
        return example.response_ids
    action_id = form.token(recommends=example.is_recommendation)
    return np.concatenate([[action_id], example.response_ids])


def _positions(labels: list[np.ndarray], vocabulary: Vocabulary) -> Positions:
    lengths = np.array([len(ids) for ids in labels])
    example_P = np.repeat(np.arange(len(labels)), lengths)
    labels_P = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    first, end = vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items
    is_action_P = (labels_P == vocabulary.rec_id) | (labels_P == vocabulary.gen_id)
    return Positions(
        labels_P=labels_P,
        example_P=torch.from_numpy(example_P),
        weight_P=torch.from_numpy((1.0 / lengths)[example_P].astype(np.float32)),
        is_item_P=(labels_P >= first) & (labels_P < end),
        is_action_P=is_action_P if bool(is_action_P.any()) else None,
    )
