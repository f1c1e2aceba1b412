"""From a list of examples to this rank's share of every global batch.

Every example belongs permanently to one of `batch_size` slots; a global batch takes the next
example of every slot, and a rank owns a run of slots. So

- the global batches are the same for any number of ranks,
- a rank sees the same examples in every epoch,
- the order is a pure function of (seed, step): the resume state is the step alone.

Padding is small because examples of similar length meet. The examples are dealt to the slots in the
order of their lengths, so that all slots have as many of every length; each slot's examples, by
length, are cut in `NUM_BUCKETS` buckets, and shuffled within their bucket anew each epoch: a batch
takes one of each slot from the same bucket, and the batches of all buckets come in random order. So
an example may meet the 1 / NUM_BUCKETS of all examples that are nearest to it in length.

What is lost: an epoch has floor(n / batch_size) batches, so up to batch_size - 1 examples are left
out of it; which ones changes with the epoch.

B examples of a micro-batch, P response positions, end to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.common.errors import InputError
from trainer.data.examples import Example
from trainer.data.model_input import (
    InputLimits,
    ModelInput,
    collate,
    dialogue_input,
    merge_sequences,
)
from trainer.data.vocabulary import Vocabulary

NUM_BUCKETS = 24


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of the global batch of one step."""

    step: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What the order of the data depends on."""

    batch_size: int
    """Examples per global batch."""
    seed: int
    rank: int
    world_size: int

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
    """

    labels_P: Tensor
    example_P: Tensor
    weight_P: Tensor
    is_item_P: Tensor


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
    lengths = np.array([len(e.context_ids) + len(e.response_ids) for e in examples])
    slots = assign_slots(lengths, config.batch_size, config.seed)
    epoch_steps = len(examples) // config.batch_size
    share = config.batch_size // config.world_size
    epoch, order = -1, np.empty((0, 0), np.int64)
    step = first_step
    while True:
        if step // epoch_steps != epoch:
            epoch = step // epoch_steps
            order = epoch_order(slots, lengths, epoch_steps, config.seed, epoch)
        row = order[step % epoch_steps]
        mine = row[config.rank * share : (config.rank + 1) * share]
        yield Batch(step=step, examples=tuple(examples[i] for i in mine))
        step += 1


def assign_slots(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Example indices of every slot, dealt by length; the same in every epoch."""
    rng = np.random.default_rng([seed, 0])
    shuffled = rng.permutation(len(lengths))
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    slots: list[list[int]] = [[] for _ in range(batch_size)]
    for start in range(0, len(by_length), batch_size):
        # The last deal may not reach all slots: which of them have one more is random, too.
        dealt = by_length[start : start + batch_size]
        for slot, index in zip(rng.permutation(batch_size), dealt, strict=False):
            slots[slot].append(int(index))
    return [np.array(slot, np.int64) for slot in slots]


def epoch_order(
    slots: list[np.ndarray], lengths: np.ndarray, epoch_steps: int, seed: int, epoch: int
) -> np.ndarray:
    """Example index at [step of the epoch, slot], int64."""
    rng = np.random.default_rng([seed, 1, epoch])
    # At least two to a bucket, or the same examples would meet in every epoch.
    num_buckets = max(1, min(NUM_BUCKETS, epoch_steps // 2))
    columns = []
    for slot in slots:
        # Random: which examples this epoch leaves out, and the order of those of one length.
        taken = rng.permutation(slot)[:epoch_steps]
        column = taken[np.argsort(lengths[taken], kind="stable")]
        for bucket in np.array_split(column, num_buckets):
            rng.shuffle(bucket)  # a view
        columns.append(column)
    return np.stack(columns, axis=1)[rng.permutation(epoch_steps)]


def to_student_input(
    examples: tuple[Example, ...],
    vocabulary: Vocabulary,
    limits: InputLimits,
    *,
    action_tokens: bool,
) -> StudentInput:
    """Collate a micro-batch; the student's step t is the teacher's step t by response index.

    Consecutive examples of a dialogue share a sequence where one goes on from the other; an action
    token before a response stands in no later context, and keeps them apart.
    """
    inputs = [
        dialogue_input(e, limits, [_action_id(e, vocabulary)] if action_tokens else ())
        for e in examples
    ]
    if limits.takes_ranges:
        inputs = merge_sequences(inputs)
    return StudentInput(
        model=collate(inputs, pad_id=vocabulary.pad_id),
        positions=_positions([example.response_ids for example in examples], vocabulary),
    )


def micro_batches(batch: Batch, micro_batch_size: int | None) -> list[tuple[Example, ...]]:
    """The batch cut into forwards; the cut does not change the loss, only the memory."""
    size = micro_batch_size or len(batch.examples)
    return [batch.examples[i : i + size] for i in range(0, len(batch.examples), size)]


def _action_id(example: Example, vocabulary: Vocabulary) -> int:
    return vocabulary.rec_id if example.is_recommendation else vocabulary.gen_id


def _positions(labels: list[np.ndarray], vocabulary: Vocabulary) -> Positions:
    lengths = np.array([len(ids) for ids in labels])
    example_P = np.repeat(np.arange(len(labels)), lengths)
    labels_P = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    first, end = vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items
    return Positions(
        labels_P=labels_P,
        example_P=torch.from_numpy(example_P),
        weight_P=torch.from_numpy((1.0 / lengths)[example_P].astype(np.float32)),
        is_item_P=(labels_P >= first) & (labels_P < end),
    )
