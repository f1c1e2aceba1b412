"""A share of the training dialogues, for learning curves: a smaller one lies within a larger one.

Whether a dialogue belongs to a share depends on the seed, its id and the other ids alone, neither
on the order of the file nor on the run's own seed: all students of a curve meet the same dialogues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from trainer.config.run import TrainConfig
from trainer.data.chains import dialogue_id
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData


def training_examples(data: PreparedData, config: TrainConfig) -> list[Example]:
    """The examples that a run learns from: of all training dialogues, or of a share of them.

    Raises:
        InputError: as `PreparedData.examples`.
    """
    return share_of_dialogues(data.examples("train"), config.share, config.share_seed)


def share_of_dialogues(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples of a seeded share of the dialogues, in their order; one dialogue at least.

    Args:
        examples: of whole dialogues, in order.
        share: in (0, 1], of the dialogues that have an example.
        seed: of the choice.
    """
    ids = sorted({dialogue_id(it) for it in examples}, key=lambda it: _place(it, seed))
    chosen = set(ids[: max(1, round(share * len(ids)))])
    return [it for it in examples if dialogue_id(it) in chosen]


def _place(dialogue: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{dialogue}".encode()).digest()
