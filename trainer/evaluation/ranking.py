"""Rank of the gold movie among all items; one sample per gold movie of a response.

S samples, I items.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.scoring.metrics import CUTOFFS


def gold_ranks(scores_SI: Tensor, gold_S: Tensor) -> Tensor:
    """Items that score higher, and half of the ties: a constant score gains nothing; float [S]."""
    gold_S1 = scores_SI.gather(1, gold_S[:, None])
    ties_S = (scores_SI == gold_S1).sum(1) - 1
    return (scores_SI > gold_S1).sum(1) + 0.5 * ties_S


def recalls(ranks_S: Tensor) -> Mapping[str, float]:
    """Recall at each cutoff: the share of samples that rank above it (0 of none)."""
    count = max(1, len(ranks_S))
    return {f"recall_at_{k}": float((ranks_S < k).sum()) / count for k in CUTOFFS}


def random_recalls(num_candidates_S: Tensor) -> Mapping[str, float]:
    """What a random order would score on average, given each sample's number of candidates."""
    shares_S = torch.where(num_candidates_S > 0, 1.0 / num_candidates_S, 0.0)
    return {f"recall_at_{k}": float((k * shares_S).clamp(max=1.0).mean()) for k in CUTOFFS}
