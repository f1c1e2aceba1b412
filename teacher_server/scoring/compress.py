"""Scores on the device -> TargetRows, cut down before they leave it.

T rows, S support (V entries for a dialogue teacher, the items for a recommendation teacher),
K kept candidates of a row, E kept entries of all rows, N draws of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.codec import TargetRows
from protos.compression import cuts_by_mass, max_entries
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression


@dataclass(frozen=True, kw_only=True)
class Support:
    """Which vocabulary ids the columns of a row stand for."""

    vocab_size: int
    first_id: int
    """The vocabulary id of column 0."""
    first_item_column: int
    num_items: int


def compress(
    scores_TS: Tensor,
    compression: Compression,
    *,
    support: Support,
    temperature: float = 1.0,
    asked_T: np.ndarray | None = None,
    uniforms_TN: np.ndarray | None = None,
) -> TargetRows:
    """The rows of softmax(scores / temperature) cut down, with the mass of what was dropped.

    With `asked_T` those of softmax(scores / (temperature * asked)); masses stay the teacher's own.
    The distribution itself is never stored: kept entries are scores less their row's logsumexp.

    Args:
        scores_TS: logits or log-probs, bfloat16 or float32 [T, S]; -inf: not possible at all.
            Scratch: kept entries are overwritten and put back.
        compression: what to keep; entries of -inf are never kept.
        support: the ids of the columns.
        temperature: the teacher's own; divides the scores before anything else.
        asked_T: float [T], what each row's request asks for on top; None: 1 throughout.
        uniforms_TN: float64 [T, N] in [0, 1), one per draw; for compression.samples = N alone.

    Returns:
        TargetRows of T rows, ids ascending. `tail` is summed over the dropped entries, so it is
        never negative and exactly 0 where all possible entries were kept; `item_mass` is summed
        over ALL items before the cut, at the teacher's own temperature. Drawn rows have no tail:
        their weights sum to 1, and their mean over draws is the whole row (Sparse Logit Sampling,
        ACL 2025).
    """
    scores_TS = scores_TS.float()
    if temperature != 1.0:
        scores_TS = scores_TS / temperature
    total_T1 = scores_TS.logsumexp(-1, keepdim=True)
    item_mass_R = _numpy(_item_mass(scores_TS, total_T1, support), np.float32)
    if asked_T is not None and bool(np.any(asked_T != 1.0)):
        # Row by row, so that requests of any temperature may share a batch: x / 1 is x.
        asked_T1 = torch.from_numpy(asked_T.astype(np.float32))[:, None].to(scores_TS.device)
        scores_TS = scores_TS / asked_T1
        total_T1 = scores_TS.logsumexp(-1, keepdim=True)
    if compression.samples:
        assert uniforms_TN is not None, "samples need their draws"
        return _drawn(scores_TS, total_T1, uniforms_TN, item_mass_R, support)
    kept_TK, columns_TK, keep_TK = _keep(scores_TS, total_T1, compression)
    tail_T = _dropped_mass(scores_TS, total_T1, columns_TK, kept_TK, keep_TK)
    log_probs_TK = kept_TK - total_T1
    return TargetRows(
        counts_R=_numpy(keep_TK.sum(-1), np.int32),
        ids_E=_numpy(columns_TK[keep_TK] + support.first_id, np.int32),
        log_probs_E=_numpy(log_probs_TK[keep_TK].clamp(max=0.0), np.float32),
        tail_R=_numpy(tail_T, np.float32),
        masses={ITEM_MASS: item_mass_R},
        vocab_size=support.vocab_size,
    )


def _keep(
    scores_TS: Tensor, total_T1: Tensor, compression: Compression
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate scores, their columns (ascending) and which of them are kept, all [T, K]."""
    size = scores_TS.shape[-1]
    most = max_entries(compression, size)
    if most == size and not cuts_by_mass(compression):
        columns_TK = torch.arange(size, device=scores_TS.device).expand(scores_TS.shape)
        return scores_TS, columns_TK, scores_TS.isfinite()
    kept_TK, columns_TK = scores_TS.topk(most, dim=-1)
    keep_TK = kept_TK.isfinite()
    if cuts_by_mass(compression):
        probs_TK = (kept_TK - total_T1).double().exp()
        # Kept while the mass BEFORE an entry is short of top_p: the fewest entries that reach it.
        keep_TK &= _cumsum(probs_TK) - probs_TK < compression.top_p
    columns_TK, order_TK = columns_TK.sort(-1)
    return kept_TK.gather(-1, order_TK), columns_TK, keep_TK.gather(-1, order_TK)


def _cumsum(values_TK: Tensor) -> Tensor:
    """Along the last dimension; CUDA has no deterministic one of floats, as of torch 2.13."""
    if values_TK.is_cuda and torch.are_deterministic_algorithms_enabled():
        return values_TK.cpu().cumsum(-1).to(values_TK.device)
    return values_TK.cumsum(-1)


def _dropped_mass(
    scores_TS: Tensor, total_T1: Tensor, columns_TK: Tensor, kept_TK: Tensor, keep_TK: Tensor
) -> Tensor:
    """Mass of the entries that are not kept, [T]: their own logsumexp, so no 1 - x of float32."""
    if kept_TK is scores_TS:
        # Every possible entry was kept.
        return torch.zeros(len(scores_TS))
    scores_TS.scatter_(-1, columns_TK, kept_TK.masked_fill(keep_TK, -math.inf))
    dropped_T1 = scores_TS.logsumexp(-1, keepdim=True)
    scores_TS.scatter_(-1, columns_TK, kept_TK)
    return (dropped_T1 - total_T1).exp().squeeze(-1).clamp(max=1.0)


def _item_mass(scores_TS: Tensor, total_T1: Tensor, support: Support) -> Tensor:
    if support.num_items == scores_TS.shape[-1]:
        return torch.ones(len(scores_TS))
    items_TI = scores_TS.narrow(-1, support.first_item_column, support.num_items)
    return (items_TI.logsumexp(-1) - total_T1.squeeze(-1)).exp().clamp(max=1.0)


def _drawn(
    scores_TS: Tensor,
    total_T1: Tensor,
    uniforms_TN: np.ndarray,
    item_mass_R: np.ndarray,
    support: Support,
) -> TargetRows:
    """Rows of weights count / N over the columns that were drawn."""
    # float64: in float32 a cumulative sum over a whole vocabulary loses its rare entries.
    cumulative_TS = _cumsum((scores_TS - total_T1).double().exp())
    uniforms = torch.from_numpy(uniforms_TN).to(scores_TS.device)
    last_T1 = cumulative_TS[:, -1:]
    # Never the last sum itself, to which a product may round: past it there is no column.
    wanted_TN = torch.minimum(uniforms * last_T1, last_T1.nextafter(torch.zeros_like(last_T1)))
    columns_TN = _numpy(torch.searchsorted(cumulative_TS, wanted_TN, right=True), np.int64)
    num_rows, num_draws = columns_TN.shape
    columns_TN.sort(axis=-1)
    is_first_TN = np.ones(columns_TN.shape, bool)
    is_first_TN[:, 1:] = columns_TN[:, 1:] != columns_TN[:, :-1]
    first_E = np.flatnonzero(is_first_TN)
    times_E = np.diff(np.append(first_E, num_rows * num_draws))
    return TargetRows(
        counts_R=is_first_TN.sum(-1).astype(np.int32),
        ids_E=(columns_TN.ravel()[first_E] + support.first_id).astype(np.int32),
        log_probs_E=np.log(times_E / num_draws).astype(np.float32),
        tail_R=np.zeros(num_rows, np.float32),
        masses={ITEM_MASS: item_mass_R},
        vocab_size=support.vocab_size,
    )


def _numpy(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return tensor.cpu().numpy().astype(dtype)
