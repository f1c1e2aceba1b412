"""The one batch that every student takes at every step, so that cells differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.bench.scaling.grid import BATCH, MICRO_BATCH
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches
from trainer.data.prepared import PreparedData


def fixed_parts(data: PreparedData, size: int) -> list[list[Example]]:
    """Micro-batches of a rank whose share of the first global batch has `size` responses.

    `size` divides BATCH. Dialogues stay whole, so the share is a few responses more or less.
    """
    loader = LoaderConfig(
        batch_size=BATCH,
        seed=0,
        rank=0,
        world_size=BATCH // size,
        micro_batch_size=min(size, MICRO_BATCH),
    )
    batch = next(batches(data.examples("train"), loader))
    return [list(part) for part in batch.parts]


def rows_of(examples: Sequence[Example]) -> int:
    """Rows of the dialogue teacher: one for each supervised position."""
    return sum(len(example.response_ids) for example in examples)
