"""How close a student is to its teachers: mass on what they kept, and the same first ids.

Everything is read from scores that the fused loss has in hand anyway: the student's mass on a row's
kept entries costs their sum, its first ids a look at a few rows of scores (watched.py).

C positions of one chunk, V vocabulary, W watched positions of a teacher, F first ids, E entries,
K kinds of teachers, S sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.loss.soft_targets import Entries, SoftTargets, Tail
from trainer.loss.watched import CLOSE_KINDS, CLOSE_STEPS, FIRST

CLOSE_SUMS = ("student_mass", *(f"{of}_{it}" for it in CLOSE_STEPS for of in ("agreed", "shared")))
"""Of each kind: mass on the kept entries; watched positions with the same first id; and the shares
of the teacher's first set that are in the student's, summed over these positions."""


def watched_counts(targets: SoftTargets) -> dict[str, int]:
    """What the sums are divided by: positions that learn from a kind, and its watched ones.

    All teachers of a kind have the same.
    """
    of_kind = {it.watched.kind: it.watched for it in targets.terms if it.watched is not None}
    counts = {}
    for number, kind in enumerate(CLOSE_KINDS):
        watched = of_kind.get(number)
        num_watched = 0 if watched is None else len(watched.place_W)
        num_items = 0 if watched is None else watched.num_items
        counts[f"{kind}_learning"] = 0 if watched is None else watched.num_learning
        counts[f"{kind}_watched_item"] = num_items
        counts[f"{kind}_watched_word"] = num_watched - num_items
    return counts


def no_closeness(like: Tensor) -> Tensor:
    """Sums of nothing yet; float [K, S]."""
    return like.new_zeros((len(CLOSE_KINDS), len(CLOSE_SUMS)))


def closeness(
    exp_CV: Tensor,
    exp_E: Tensor,
    partition_C: Tensor,
    targets: SoftTargets,
    entries: Entries,
    tails: Sequence[Tail],
    chunk: slice,
) -> Tensor:
    """The sums of one chunk, by CLOSE_KINDS and CLOSE_SUMS; float [K, S], without gradient.

    Args:
        exp_CV: the student's unnormalised probabilities, at the temperature of the targets.
        exp_E: those of the entries.
        partition_C: the sums of exp_CV.
        targets: with the terms that are watched.
        entries, tails: of the chunk (`soft_targets.cut`).
        chunk: the chunk's positions.
    """
    total_KS = no_closeness(partition_C)
    for term, tail in zip(targets.terms, tails, strict=True):
        watched = term.watched
        if watched is None:
            continue
        kept_E = exp_E[tail.own] / partition_C[entries.row_E[tail.own]]
        total_KS[watched.kind, 0] += watched.weight * kept_E.sum()
        inside = watched.within(chunk)
        if inside.start == inside.stop:
            continue
        first, end = tail.support
        row_W = watched.position_W[inside] - chunk.start
        found_WF = exp_CV[row_W, first:end].topk(min(FIRST, end - first)).indices + first
        compared_W2 = watched.weight * _compare(found_WF, watched.first_WF[inside]).to(total_KS)
        is_item_W1 = watched.is_item_W[inside, None]
        total_KS[watched.kind, 1:3] += (compared_W2 * is_item_W1).sum(0)
        total_KS[watched.kind, 3:5] += (compared_W2 * ~is_item_W1).sum(0)
    return total_KS


def _compare(found_WF: Tensor, first_WF: Tensor) -> Tensor:
    """Whether the first ids agree, and the share of the first sets that is common to both; [W, 2].

    Of a row with n < F entries it is the first n of both.
    """
    count_W = (first_WF >= 0).sum(1).clamp(min=1)
    is_compared_WF = torch.arange(found_WF.shape[1], device=found_WF.device) < count_W[:, None]
    is_common_WF = (found_WF[:, :, None] == first_WF[:, None, :]).any(2) & is_compared_WF
    agrees_W = found_WF[:, 0] == first_WF[:, 0]
    return torch.stack([agrees_W.double(), is_common_WF.sum(1) / count_W.double()], 1)
