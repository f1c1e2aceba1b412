"""Precision, recall and F1 of the turn-level recommendation classifier (Eq. 12).

T responses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.examples import Example


def gold_turns(examples: Sequence[Example]) -> np.ndarray:
    """Whether each gold response names a movie, bool [T]."""
    return np.array([example.is_recommendation for example in examples], bool)


def turn_scores(recommends_T: np.ndarray, gold_T: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 of [REC] (0 if neither side ever says it), from bool [T]."""
    hits = int((recommends_T & gold_T).sum())
    total = int(recommends_T.sum() + gold_T.sum())
    return {
        "accuracy": float((recommends_T == gold_T).mean()),
        "f1": 2 * hits / total if total else 0.0,
    }


def majority_turns(train: Sequence[Example], num_responses: int) -> np.ndarray:
    """What most of train's responses do, for every response; bool [T]."""
    return np.full(num_responses, gold_turns(train).mean() > 0.5)
