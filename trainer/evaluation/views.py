"""Candidate sets for ranking metrics: three views of recommended items, and two baselines.

T responses, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.examples import Example
from trainer.data.prepared import PreparedData
from trainer.evaluation.metrics import (
    ItemSlot,
    RecommendationScores,
    copy_slots,
    list_depth,
    popularity_slots,
    recommendation_scores,
)


@dataclass(frozen=True, kw_only=True)
class RecommendationViews:
    """One set of item positions, scored three times."""

    all_gold: RecommendationScores
    """The headline: every movie of the whole gold turn."""
    new_items: RecommendationScores
    """Without items that the context names, in gold and in the ranked lists."""
    truncated_gold: RecommendationScores
    """Without gold items past the response limit."""

    def to_dict(self) -> dict[str, Any]:
        """The headline flat, the other two below their names."""
        return {
            **self.all_gold.to_dict(),
            "new_items": self.new_items.to_dict(),
            "truncated_gold": self.truncated_gold.to_dict(),
        }


def recommendation_views(
    slots: Sequence[Sequence[ItemSlot]], examples: Sequence[Example], data: PreparedData
) -> RecommendationViews:
    """Score the item positions of T responses; `slots` and `examples` go together."""
    vocabulary, size = data.vocabulary, data.vocabulary.num_items
    whole = [example.gold_items.tolist() for example in examples]
    cut = [
        [i - vocabulary.first_item_id for i in e.response_ids.tolist() if vocabulary.is_item(i)]
        for e in examples
    ]
    mentioned = [set(items) for items in mentioned_items(examples, data)]
    return RecommendationViews(
        all_gold=recommendation_scores(slots, whole, num_items=size),
        new_items=recommendation_scores(slots, whole, num_items=size, mentioned=mentioned),
        truncated_gold=recommendation_scores(slots, cut, num_items=size),
    )


def mentioned_items(examples: Sequence[Example], data: PreparedData) -> list[list[int]]:
    """Items that each whole context names, also before its cut, in the order of first mention."""
    item_of = {int(entity): item for item, entity in enumerate(data.graph.item_entities_I)}
    return [
        [item_of[entity] for entity in example.context_entities.tolist() if entity in item_of]
        for example in examples
    ]


def baseline_views(
    examples: Sequence[Example], train_examples: Sequence[Example], data: PreparedData
) -> dict[str, RecommendationViews]:
    """What repeating the context and what naming the best-known movies would score.

    Both get as many item positions as the gold response has items, so they know WHEN to recommend:
    they are bars for the ranking alone.
    """
    mentioned = mentioned_items(examples, data)
    size = data.vocabulary.num_items
    ranking_I = popularity_ranking(train_examples, size)
    copies, popular = [], []
    for example, named in zip(examples, mentioned, strict=True):
        count, depth = len(example.gold_items), list_depth(size, len(named))
        copies.append(copy_slots(named, count, depth))
        popular.append(popularity_slots(ranking_I[:depth], count))
    return {
        "copy_last_mentioned": recommendation_views(copies, examples, data),
        "popularity": recommendation_views(popular, examples, data),
    }


def popularity_ranking(train_examples: Sequence[Example], num_items: int) -> np.ndarray:
    """Items by their count in training responses, most first, ties by index; int64 [I]."""
    gold = np.concatenate([np.empty(0, np.int32), *(e.gold_items for e in train_examples)])
    return np.argsort(-np.bincount(gold.astype(np.int64), minlength=num_items), kind="stable")
