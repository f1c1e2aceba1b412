"""Fused linear + sparse soft-target cross entropy: loss and both gradients, logits never whole.

For a position with student distribution q, gold token y and teachers t, each with kept entries K_t
(probabilities p), tail mass and a support S_t (all ids, or the items):

    L = - gold log q_y - sum_t weight_t (sum_{j in K_t} p_j log q_j + tail_t log q(S_t - K_t))

    dL/dz_j = q_j * (gold + sum_t weight_t * (kept_t + tail_t))        one cross entropy's gradient
              - [j = y] gold - sum_t weight_t * [j in K_t] p_j         minus the sparse target
              - sum_t weight_t * tail_t * [j in S_t - K_t] q_j / q(S_t - K_t)

The last line is the tail bucket: the dropped mass is one class whose student probability is the
student's own mass outside the kept set (docs/loss.md). A tail of 0 leaves the plain sparse form.

P positions, C positions of one chunk, V vocabulary, D hidden, R target rows, E entries of all rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DEFAULT_CHUNK_SIZE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """Ragged rows of one teacher: row r holds the entries offsets_R1[r] to offsets_R1[r + 1].

    Attributes:
        offsets_R1: int64 [R + 1], on the CPU (they slice).
        ids_E: int64 [E], no id twice within a row.
        probs_E: float [E], probabilities, not logs.
        tail_R: float [R], mass of the support that was not sent.
    """

    offsets_R1: Tensor
    ids_E: Tensor
    probs_E: Tensor
    tail_R: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTerm:
    """What one teacher asks of every position.

    Attributes:
        rows: the teacher's rows.
        row_P: int64 [P] on the CPU, the row that position p learns from.
        weight_P: float [P] on the CPU, how much of it; 0 switches the teacher off there.
        support: first id and end of the ids that the tail mass is spread over.
    """

    rows: SparseRows
    row_P: Tensor
    weight_P: Tensor
    support: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """One sparse target distribution per position.

    Attributes:
        labels_P: int64 [P], gold tokens.
        gold_P: float [P], weight of the gold token.
        terms: the teachers' parts; empty for plain cross entropy.
    """

    labels_P: Tensor
    gold_P: Tensor
    terms: tuple[TeacherTerm, ...] = ()


@dataclass(frozen=True, eq=False)
class _ChunkTerm:
    """A term cut to one chunk, its ragged rows laid out as coordinates."""

    row_E: Tensor
    id_E: Tensor
    prob_E: Tensor
    weight_C: Tensor
    kept_C: Tensor
    tail_C: Tensor
    support: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Tail:
    """One term's bucket: tail mass over the student's mass there, and who is not in it."""

    ratio_C: Tensor
    support: tuple[int, int]
    is_kept: list[Tensor]


class SparseCrossEntropy(nn.Module):
    """The loss as a module that owns the (tied) output weight.

    ZeRO-3 gathers the parameters that a module holds itself, for the time of its forward: this is
    why the weight is registered here and not passed in.
    """

    def __init__(self, head: nn.Linear, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        super().__init__()
        self.weight = head.weight
        self.chunk_size = chunk_size

    def forward(self, hidden_PD: Tensor, targets: SoftTargets) -> tuple[Tensor, Tensor]:
        """See sparse_cross_entropy_sum."""
        return sparse_cross_entropy_sum(hidden_PD, self.weight, targets, chunk_size=self.chunk_size)


def sparse_cross_entropy_sum(
    hidden_PD: Tensor,
    weight_VD: Tensor,
    targets: SoftTargets,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """Cross entropy against sparse targets, summed over positions.

    Args:
        hidden_PD: float [P, D] hidden states of the positions that count.
        weight_VD: float [V, D] output weight; logits are hidden @ weight^T, summed and
            rounded in its dtype, then float32 or wider.
        targets: what each position should learn; weights may fold in 1/T of Eq. 5.
        chunk_size: positions whose logits are held at once.

    Returns:
        The loss, a scalar sum in nats, and the gold token's plain NLL per position, float [P],
        without gradient (for metrics).

    Source: paper Eqs. 8-11 merged into one cross entropy; the gradient is in the module docstring.
    """
    return _SparseCrossEntropy.apply(hidden_PD, weight_VD, targets, chunk_size)  # type: ignore[return-value]


class _SparseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_PD, weight_VD, targets, chunk_size):
        num_positions = hidden_PD.shape[0]
        accumulate = torch.promote_types(hidden_PD.dtype, torch.float32)
        needs_grad = any(ctx.needs_input_grad[:2])
        grad_hidden_PD = torch.empty_like(hidden_PD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=accumulate) if needs_grad else None
        loss = hidden_PD.new_zeros((), dtype=accumulate)
        nll_P = hidden_PD.new_empty(num_positions, dtype=accumulate)
        for start in range(0, num_positions, chunk_size):
            chunk = slice(start, min(start + chunk_size, num_positions))
            hidden_CD = hidden_PD[chunk]
            scores_CV = (hidden_CD @ weight_VD.T).to(accumulate)
            chunk_loss, nll_P[chunk] = _loss_and_gradient_(scores_CV, targets, chunk, needs_grad)
            loss += chunk_loss
            if grad_hidden_PD is not None and grad_weight_VD is not None:
                grad_CV = scores_CV.to(weight_VD.dtype)
                grad_hidden_PD[chunk] = grad_CV @ weight_VD
                _add_outer_(grad_weight_VD, grad_CV, hidden_CD)
        if grad_hidden_PD is not None and grad_weight_VD is not None:
            ctx.save_for_backward(grad_hidden_PD, grad_weight_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(nll_P)
        return loss, nll_P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _grad_nll_P):
        grad_hidden_PD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_PD * grad_loss, grad_weight_VD * grad_loss, None, None


def _add_outer_(total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """total += grad^T @ hidden, where the dtypes allow it without a second [V, D] buffer."""
    if grad_CV.dtype == hidden_CD.dtype == total_VD.dtype:
        total_VD.addmm_(grad_CV.T, hidden_CD)
    else:
        total_VD += grad_CV.T @ hidden_CD


def _loss_and_gradient_(
    scores_CV: Tensor, targets: SoftTargets, chunk: slice, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss sum and gold NLL of a chunk; scores_CV is overwritten by dL/dscores if needs_grad."""
    labels_C = targets.labels_P[chunk]
    gold_C = targets.gold_P[chunk].to(scores_CV)
    terms = [_cut_term(term, chunk, scores_CV) for term in targets.terms]
    position_C = torch.arange(len(labels_C), device=scores_CV.device)

    scores_CV.sub_(scores_CV.amax(-1, keepdim=True))
    kept_scores = [scores_CV[term.row_E, term.id_E] for term in terms]
    gold_scores_C = scores_CV[position_C, labels_C]
    exp_CV = scores_CV.exp_()
    partition_C = exp_CV.sum(-1)
    log_partition_C = partition_C.log()

    nll_C = log_partition_C - gold_scores_C
    loss = (gold_C * nll_C).sum()
    total_C = gold_C.clone()
    tails = []
    for term, kept_E in zip(terms, kept_scores, strict=True):
        weight_E = term.weight_C[term.row_E] * term.prob_E
        loss += (weight_E * (log_partition_C[term.row_E] - kept_E)).sum()
        rest_C, is_kept = _rest_of_support_(exp_CV, term, kept_E, terms)
        tail_C = term.weight_C * term.tail_C
        # A row that was sent whole has a tail of exactly 0 and a rest of 0: 0 * log(0) is 0 here.
        loss -= (tail_C * (rest_C.log() - log_partition_C))[tail_C > 0].sum()
        ratio_C = torch.where(tail_C > 0, tail_C / rest_C, 0.0)
        tails.append(_Tail(ratio_C=ratio_C, support=term.support, is_kept=is_kept))
        total_C += term.weight_C * (term.kept_C + term.tail_C)
    if needs_grad:
        _gradient_(exp_CV, total_C / partition_C, terms, tails, kept_scores)
        exp_CV[position_C, labels_C] -= gold_C
    return loss, nll_C


def _cut_term(term: TeacherTerm, chunk: slice, like: Tensor) -> _ChunkTerm:
    rows, row_C, weight_C = term.rows, term.row_P[chunk], term.weight_P[chunk]
    starts_C = rows.offsets_R1[row_C]
    # A position that does not listen to this teacher costs nothing, not even its entries.
    counts_C = torch.where(weight_C > 0, rows.offsets_R1[row_C + 1] - starts_C, 0)
    row_E = torch.repeat_interleave(counts_C)
    within_E = torch.arange(len(row_E)) - (counts_C.cumsum(0) - counts_C)[row_E]
    entry_E = (starts_C[row_E] + within_E).to(like.device)
    row_E, prob_E = row_E.to(like.device), rows.probs_E[entry_E].to(like)
    kept_C = like.new_zeros(len(row_C)).index_add_(0, row_E, prob_E)
    return _ChunkTerm(
        row_E=row_E,
        id_E=rows.ids_E[entry_E],
        prob_E=prob_E,
        weight_C=weight_C.to(like),
        kept_C=kept_C,
        tail_C=rows.tail_R[row_C.to(like.device)].to(like),
        support=term.support,
    )


def _rest_of_support_(
    exp_CV: Tensor, term: _ChunkTerm, kept_E: Tensor, terms: list[_ChunkTerm]
) -> tuple[Tensor, list[Tensor]]:
    """Student's unnormalised mass on the support outside the kept entries, [C].

    Summed with the kept entries set to 0, not as 1 - kept: near convergence the difference of two
    numbers close to 1 has no correct digit left. While they are 0, every term's entries are looked
    up: bool [E] per term, True where this term kept the entry (or it is 0 anyway).
    """
    first, end = term.support
    exp_CV[term.row_E, term.id_E] = 0.0
    rest_C = exp_CV[:, first:end].sum(-1).clamp_min(torch.finfo(exp_CV.dtype).tiny)
    is_kept = [exp_CV[other.row_E, other.id_E] == 0 for other in terms]
    exp_CV[term.row_E, term.id_E] = kept_E.exp()
    return rest_C, is_kept


def _gradient_(
    exp_CV: Tensor,
    scale_C: Tensor,
    terms: list[_ChunkTerm],
    tails: list[_Tail],
    kept_scores: list[Tensor],
) -> None:
    """Turn exp(scores) into dL/dscores in place, but for the gold token.

    Kept entries are set, not corrected: beside a tail that the student gives almost no mass, the
    factor is so large that adding it back would leave rounding error alone.
    """
    vocab_size = exp_CV.shape[1]
    edges = sorted({0, vocab_size, *(edge for tail in tails for edge in tail.support)})
    for first, end in itertools.pairwise(edges):
        factor_C = scale_C
        for tail in tails:
            if tail.support[0] <= first and end <= tail.support[1]:
                factor_C = factor_C - tail.ratio_C
        exp_CV[:, first:end].mul_(factor_C[:, None])
    for index, (term, kept_E) in enumerate(zip(terms, kept_scores, strict=True)):
        factor_E = scale_C[term.row_E]
        for tail in tails:
            in_tail_E = (term.id_E >= tail.support[0]) & (term.id_E < tail.support[1])
            in_tail_E &= ~tail.is_kept[index]
            factor_E = factor_E - torch.where(in_tail_E, tail.ratio_C[term.row_E], 0.0)
        exp_CV[term.row_E, term.id_E] = factor_E * kept_E.exp()
    for term in terms:
        weight_E = term.weight_C[term.row_E] * term.prob_E
        exp_CV.view(-1).index_add_(0, term.row_E * vocab_size + term.id_E, -weight_E)
