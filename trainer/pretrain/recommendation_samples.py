"""What the recommendation teacher is fitted on: one sample per movie that a response mentions.

S samples (repeats kept), I items, B samples of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.common.errors import InputError
from trainer.data.bags import Bags
from trainer.data.examples import Example, last_ids
from trainer.evaluation.ranking import gold_ranks, recalls


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Contexts and the movie to be predicted from each.

    Attributes:
        entities: positions of the contexts' entities among the encoded nodes.
        words: the contexts' words.
        gold_S: int64 [S], item indices.
    """

    entities: Bags
    words: Bags
    gold_S: Tensor

    def select(self, rows_B: Tensor) -> Samples:
        """The samples of the given rows, in their order."""
        return Samples(
            entities=self.entities.select(rows_B),
            words=self.words.select(rows_B),
            gold_S=self.gold_S[rows_B],
        )


def to_samples(
    examples: list[Example],
    targets: np.ndarray,
    *,
    max_entities: int,
    max_words: int,
    name: str,
) -> Samples:
    """One sample per gold item.

    Args:
        targets: the encoded entities, items first.
        max_entities, max_words: the last ones of a context that are used.
        name: of the split, for the error.

    Raises:
        InputError: if no example has a gold item.
    """
    position_of = {int(entity): position for position, entity in enumerate(targets)}
    entities, words, gold = [], [], []
    for example in examples:
        context = last_ids(example.context_entities, max_entities)
        positions = np.array([position_of[int(e)] for e in context], np.int64)
        for item in example.gold_items:
            entities.append(positions)
            words.append(last_ids(example.context_words, max_words))
            gold.append(int(item))
    if not gold:
        raise InputError(f"{name} must mention at least one movie in a response, got none.")
    return Samples(
        entities=Bags.of(entities),
        words=Bags.of(words),
        gold_S=torch.tensor(gold, dtype=torch.int64),
    )


def log_popularity(gold_S: Tensor, num_items: int) -> Tensor:
    """Log of each item's share of the samples, one added to each count; float32 [I], nats."""
    counts_I = torch.bincount(gold_S, minlength=num_items) + 1.0
    return (counts_I / counts_I.sum()).log()


def ranking_scores(logits_SI: Tensor, gold_S: Tensor) -> dict[str, float]:
    """Recall at 1, 10 and 50 and mean cross entropy (nats) over samples."""
    scores = recalls(gold_ranks(logits_SI, gold_S))
    return {**scores, "loss": float(F.cross_entropy(logits_SI, gold_S))}
