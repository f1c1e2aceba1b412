"""How much of a batch is padding."""

from __future__ import annotations

import itertools

from trainer.config.run import Group
from trainer.data.chains import find_chains, input_length
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches


def padding(
    examples: list[Example],
    batch_size: int,
    world_size: int = 1,
    micro: int | None = None,
    *,
    group: Group = "dialogue",
) -> float:
    """Share of slots without a token over one epoch, where a chain is one row."""
    used = padded = 0
    for rank in range(world_size):
        config = LoaderConfig(
            batch_size=batch_size,
            seed=0,
            rank=rank,
            world_size=world_size,
            group=group,
            micro_batch_size=micro,
        )
        for batch in itertools.islice(batches(examples, config), len(examples) // batch_size):
            for part in batch.parts:
                rows = part
                if group == "dialogue":
                    rows = [part[chain[-1]] for chain in find_chains(part)]
                sizes = [input_length(row) for row in rows]
                used, padded = used + sum(sizes), padded + max(sizes) * len(sizes)
    return 1 - used / padded
