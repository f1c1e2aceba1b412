"""How much of a batch is padding."""

from __future__ import annotations

import itertools

from trainer.data.examples import Example
from trainer.data.loader import (
    LoaderConfig,
    batches,
    micro_batches,
)


def padding(
    examples: list[Example], batch_size: int, world_size: int = 1, micro: int | None = None
) -> float:
    """Share of slots without a token over one epoch, contexts and responses alike."""
    used = padded = 0
    for rank in range(world_size):
        config = LoaderConfig(batch_size=batch_size, seed=0, rank=rank, world_size=world_size)
        for batch in itertools.islice(batches(examples, config), len(examples) // batch_size):
            for part in micro_batches(batch, micro):
                sizes = [len(e.context_ids) + len(e.response_ids) for e in part]
                used, padded = used + sum(sizes), padded + max(sizes) * len(sizes)
    return 1 - used / padded
