"""Log-probs on the device -> TargetRows, cut down before they leave it.

T rows, S support (V entries for a dialogue teacher, the items for a recommendation teacher),
K kept candidates of a row, E kept entries of all rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.codec import TargetRows


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How many entries of each row are kept."""

    top_k: int = 0
    """Entries kept at most; 0: no such cap."""
    top_p: float = 0.0
    """Keep the fewest entries whose mass reaches this; 0 or 1: only top_k counts."""

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}.")
        # Written so that NaN fails too.
        if not (math.isfinite(self.top_p) and 0.0 <= self.top_p <= 1.0):
            raise ValueError(f"top_p must be in [0, 1], got {self.top_p}.")

    @property
    def by_mass(self) -> bool:
        """Whether rows may differ in length because they are cut by mass."""
        return 0.0 < self.top_p < 1.0

    def max_entries(self, support: int) -> int:
        """The most entries that one row over `support` columns can keep."""
        return min(self.top_k, support) if self.top_k else support


@dataclass(frozen=True, kw_only=True)
class Support:
    """Which vocabulary ids the columns of a row stand for."""

    vocab_size: int
    first_id: int
    """The vocabulary id of column 0."""
    first_item_column: int
    num_items: int


def normalise(scores_TS: Tensor, temperature: float) -> Tensor:
    """Float32 log-probs [T, S] of logits or log-probs at a temperature."""
    return torch.log_softmax(scores_TS.float() / temperature, dim=-1)


def compress(log_probs_TS: Tensor, cut: Cut, *, support: Support) -> TargetRows:
    """The rows of a distribution cut down, with the mass of what was dropped.

    Args:
        log_probs_TS: normalised log-probs, float32 [T, S]; -inf marks what is not possible at all.
        cut: what to keep; entries of -inf are never kept.
        support: the ids of the columns.

    Returns:
        TargetRows of T rows, ids ascending. `tail` is summed over the dropped entries, so it is
        never negative and exactly 0 where all possible entries were kept; `item_mass` is summed
        over ALL items before the cut.
    """
    log_probs_TK, columns_TK, keep_TK = _keep(log_probs_TS, cut)
    item_mass_T = _item_mass(log_probs_TS, support)
    dropped_TS = log_probs_TS.exp()
    dropped_TS.scatter_(-1, columns_TK, log_probs_TK.exp().masked_fill(keep_TK, 0.0))
    # float64: the tail is a sum of up to S entries of very unequal size.
    tail_T = dropped_TS.sum(-1, dtype=torch.float64).clamp(max=1.0)
    return TargetRows(
        counts_R=_numpy(keep_TK.sum(-1), np.int32),
        ids_E=_numpy(columns_TK[keep_TK] + support.first_id, np.int32),
        log_probs_E=_numpy(log_probs_TK[keep_TK].clamp(max=0.0), np.float32),
        tail_R=_numpy(tail_T, np.float32),
        item_mass_R=_numpy(item_mass_T, np.float32),
        vocab_size=support.vocab_size,
    )


def take_rows(rows: TargetRows, index_R: np.ndarray) -> TargetRows:
    """The rows at `index_R` (int [R]), in that order."""
    starts = np.cumsum(rows.counts_R, dtype=np.int64) - rows.counts_R
    counts_R = rows.counts_R[index_R]
    new_starts_R = np.cumsum(counts_R, dtype=np.int64) - counts_R
    entry_E = np.repeat(starts[index_R] - new_starts_R, counts_R) + np.arange(int(counts_R.sum()))
    return TargetRows(
        counts_R=counts_R,
        ids_E=rows.ids_E[entry_E],
        log_probs_E=rows.log_probs_E[entry_E],
        tail_R=rows.tail_R[index_R],
        item_mass_R=rows.item_mass_R[index_R],
        vocab_size=rows.vocab_size,
    )


def _keep(log_probs_TS: Tensor, cut: Cut) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate log-probs, their columns (ascending) and which of them are kept, all [T, K]."""
    size = log_probs_TS.shape[-1]
    max_entries = cut.max_entries(size)
    if max_entries == size and not cut.by_mass:
        columns_TK = torch.arange(size, device=log_probs_TS.device).expand(log_probs_TS.shape)
        return log_probs_TS, columns_TK, log_probs_TS.isfinite()
    log_probs_TK, columns_TK = log_probs_TS.topk(max_entries, dim=-1)
    keep_TK = log_probs_TK.isfinite()
    if cut.by_mass:
        probs_TK = log_probs_TK.double().exp()
        # Kept while the mass BEFORE an entry is short of top_p: the fewest entries that reach it.
        keep_TK &= probs_TK.cumsum(-1) - probs_TK < cut.top_p
    columns_TK, order_TK = columns_TK.sort(-1)
    return log_probs_TK.gather(-1, order_TK), columns_TK, keep_TK.gather(-1, order_TK)


def _item_mass(log_probs_TS: Tensor, support: Support) -> Tensor:
    if support.num_items == log_probs_TS.shape[-1]:
        return torch.ones(len(log_probs_TS))
    items_TI = log_probs_TS.narrow(-1, support.first_item_column, support.num_items)
    return items_TI.exp().sum(-1, dtype=torch.float64).clamp(max=1.0)


def _numpy(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return tensor.cpu().numpy().astype(dtype)
