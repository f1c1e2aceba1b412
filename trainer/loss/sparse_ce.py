"""Fused linear + sparse soft-target cross entropy: loss and both gradients, logits never whole.

For a position with student distribution q, gold token y and teachers t, each with kept entries K_t
(probabilities p), tail mass and a support S_t (all ids, or the items):

    L = - gold log q_y - sum_t weight_t (sum_{j in K_t} p_j log q_j + tail_t log q(S_t - K_t))

    dL/dz_j = q_j * (gold + sum_t weight_t * (kept_t + tail_t))        one cross entropy's gradient
              - [j = y] gold - sum_t weight_t * [j in K_t] p_j         minus the sparse target
              - sum_t weight_t * tail_t * [j in S_t - K_t] q_j / q(S_t - K_t)

The last line is the tail bucket: the dropped mass is one class whose student probability is the
student's own mass outside the kept set (docs/loss.md). A tail of 0 leaves the plain sparse form.

With a temperature T the teachers' sum is over q^T = softmax(z / T), and its gradient, which is one
of z / T, is divided by T. The gold token's part stays one of softmax(z), so the two are computed
one after the other from the same scores; at T = 1 they are one.

P positions, C positions of one chunk, V vocabulary, D hidden, E entries of a chunk.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.loss.closeness import closeness, no_closeness
from trainer.loss.products import add_outer_, gain_of, multiply, rounded_
from trainer.loss.soft_targets import Entries, SoftTargets, Tail, cut
from trainer.loss.thin_buckets import add_thin_buckets_

DEFAULT_CHUNK_SIZE = 256


@dataclass(frozen=True, eq=False)
class _Bucket:
    """The student's side of a tail.

    Attributes:
        ratio_C: float [C], the tail's weight over the student's unnormalised mass in the bucket.
        support: first id and end of the ids it may lie on.
        holds_E: bool [E], which of the chunk's entries lie in it: those of others.
    """

    ratio_C: Tensor
    support: tuple[int, int]
    holds_E: Tensor


class SparseCrossEntropy(nn.Module):
    """The loss as a module that owns the (tied) output weight.

    ZeRO-3 gathers the parameters that a module holds itself, for the time of its forward: this is
    why the weight is registered here and not passed in.
    """

    def __init__(self, head: nn.Linear, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        super().__init__()
        self.weight = head.weight
        self.chunk_size = chunk_size

    def forward(self, hidden_PD: Tensor, targets: SoftTargets) -> tuple[Tensor, Tensor, Tensor]:
        """As sparse_cross_entropy_sum, and how close the student is to its teachers.

        These sums (closeness.py), float [kinds, sums] without gradient, are 0 where none is
        watched.
        """
        return _sparse_cross_entropy(hidden_PD, self.weight, targets, self.chunk_size)


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
        weight_VD: float [V, D] output weight; logits are hidden @ weight^T, float32 or wider
            whatever the dtype of both: near convergence, logits rounded to bfloat16 would leave
            little of the gradient but rounding error (docs/loss.md).
        targets: what each position should learn; weights may fold in 1/T of Eq. 5.
        chunk_size: positions whose logits are held at once.

    Returns:
        The loss, a scalar sum in nats, and the gold token's plain NLL per position, float [P],
        without gradient (for metrics).

    Source: paper Eqs. 8-11 merged into one cross entropy; the gradient is in the module docstring.
    """
    return _sparse_cross_entropy(hidden_PD, weight_VD, targets, chunk_size)[:2]


def _sparse_cross_entropy(
    hidden_PD: Tensor, weight_VD: Tensor, targets: SoftTargets, chunk_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    if not torch.is_grad_enabled():
        # autograd.Function sees requires_grad even under no_grad; detach: no gradient is computed.
        hidden_PD, weight_VD = hidden_PD.detach(), weight_VD.detach()
    device_type = hidden_PD.device.type
    if torch.is_autocast_enabled(device_type):
        # Once for all chunks, and before the graph of the loss: autocast knows no `out=`.
        dtype = torch.get_autocast_dtype(device_type)
        hidden_PD, weight_VD = hidden_PD.to(dtype), weight_VD.to(dtype)
    return _SparseCrossEntropy.apply(hidden_PD, weight_VD, targets, chunk_size)  # type: ignore[return-value]


class _SparseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_PD, weight_VD, targets, chunk_size):
        needs_grad = any(ctx.needs_input_grad[:2])
        computed = _compute(hidden_PD, weight_VD, targets, chunk_size, needs_grad)
        ctx.save_for_backward(hidden_PD, weight_VD)
        ctx.targets, ctx.chunk_size, ctx.gradients = targets, chunk_size, computed.gradients
        ctx.mark_non_differentiable(computed.nll_P, computed.closeness_KS)
        return computed.loss, computed.nll_P, computed.closeness_KS

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _grad_nll_P, _grad_closeness_KS):
        # Handed over and scaled in place: a copy of the weight's gradient would be the largest
        # buffer of the step. A second walk through a retained graph computes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        hidden_PD, weight_VD = ctx.saved_tensors
        if gradients is None:
            gradients = _compute(hidden_PD, weight_VD, ctx.targets, ctx.chunk_size, True).gradients
        assert gradients is not None
        # Scaled before they are rounded: under fp16 grad_loss holds the loss scale.
        grad_hidden_PD, grad_weight_VD = (gradient.mul_(grad_loss) for gradient in gradients)
        return grad_hidden_PD.to(hidden_PD), grad_weight_VD.to(weight_VD), None, None


@dataclass(frozen=True, eq=False)
class _Computed:
    """Loss sum, gold NLL [P], closeness to the teachers [kinds, sums], and the gradients of hidden
    states and weight if they were wanted.

    All of them float32 or wider.
    """

    loss: Tensor
    nll_P: Tensor
    closeness_KS: Tensor
    gradients: tuple[Tensor, Tensor] | None


def _compute(
    hidden_PD: Tensor, weight_VD: Tensor, targets: SoftTargets, chunk_size: int, needs_grad: bool
) -> _Computed:
    num_positions, vocab_size = hidden_PD.shape[0], weight_VD.shape[0]
    accumulate = torch.promote_types(hidden_PD.dtype, torch.float32)
    grad_hidden_PD = torch.empty_like(hidden_PD) if needs_grad else hidden_PD
    grad_weight_VD = torch.zeros_like(weight_VD, dtype=accumulate) if needs_grad else weight_VD
    loss = hidden_PD.new_zeros((), dtype=accumulate)
    nll_P = hidden_PD.new_empty(num_positions, dtype=accumulate)
    closeness_KS = no_closeness(loss)
    is_thin_TP = hidden_PD.new_zeros((len(targets.terms), num_positions), dtype=torch.bool)
    # Buffers for all chunks: fresh ones each time cost more page faults than arithmetic.
    shape = (min(chunk_size, num_positions), vocab_size)
    scores_buffer_CV = hidden_PD.new_empty(shape, dtype=accumulate)
    tempered_buffer_CV = torch.empty_like(scores_buffer_CV) if targets.is_tempered else None
    is_half = hidden_PD.dtype != accumulate
    rounded_CV = hidden_PD.new_empty(shape) if needs_grad and is_half else scores_buffer_CV
    for start in range(0, num_positions, chunk_size):
        chunk = slice(start, min(start + chunk_size, num_positions))
        hidden_CD = hidden_PD[chunk]
        scores_CV = scores_buffer_CV[: len(hidden_CD)]
        multiply(hidden_CD, weight_VD, scores_CV)
        if tempered_buffer_CV is None:
            computed = _loss_and_gradient_(scores_CV, targets, chunk, needs_grad)
        else:
            tempered_CV = tempered_buffer_CV[: len(hidden_CD)]
            computed = _at_two_temperatures_(scores_CV, tempered_CV, targets, chunk, needs_grad)
        loss += computed.loss
        nll_P[chunk], is_thin_TP[:, chunk] = computed.nll_C, computed.is_thin_TC
        closeness_KS += computed.closeness_KS
        if needs_grad:
            grad_CV = rounded_(scores_CV, rounded_CV[: len(hidden_CD)])
            torch.mm(grad_CV, weight_VD, out=grad_hidden_PD[chunk])
            add_outer_(grad_weight_VD, grad_CV, hidden_CD, largest=max(1.0, targets.temperature))
    gradients = None
    if needs_grad:
        gain = gain_of(grad_hidden_PD.dtype)
        gradients = (grad_hidden_PD.to(accumulate).div_(gain), grad_weight_VD)
    thin_R = is_thin_TP.any(0).nonzero().squeeze(1).cpu()
    for rows_R in thin_R.split(chunk_size) if len(thin_R) else ():
        loss += add_thin_buckets_(
            hidden_PD, weight_VD, targets, rows_R, is_thin_TP[:, rows_R], gradients
        )
    return _Computed(loss, nll_P, closeness_KS, gradients)


@dataclass(frozen=True, eq=False)
class _OfChunk:
    """Of one chunk: loss sum, gold NLL [C], thin buckets, bool [terms, C], and closeness."""

    loss: Tensor
    nll_C: Tensor
    is_thin_TC: Tensor
    closeness_KS: Tensor


def _at_two_temperatures_(
    scores_CV: Tensor, tempered_CV: Tensor, targets: SoftTargets, chunk: slice, needs_grad: bool
) -> _OfChunk:
    """As `_loss_and_gradient_`, where the teachers' part is at another temperature than 1.

    tempered_CV is scratch.
    """
    torch.div(scores_CV, targets.temperature, out=tempered_CV)
    gold = _loss_and_gradient_(scores_CV, targets.of_gold(), chunk, needs_grad)
    taught = _loss_and_gradient_(tempered_CV, targets.of_teachers(), chunk, needs_grad)
    if needs_grad:
        scores_CV.add_(tempered_CV, alpha=1.0 / targets.temperature)
    return replace(taught, loss=gold.loss + taught.loss, nll_C=gold.nll_C)


def _loss_and_gradient_(
    scores_CV: Tensor, targets: SoftTargets, chunk: slice, needs_grad: bool
) -> _OfChunk:
    """Everything of a chunk; scores_CV is overwritten by dL/dscores if needs_grad."""
    entries, tails = cut(targets, chunk, scores_CV)
    at_E = entries.row_E * scores_CV.shape[1] + entries.id_E

    scores_CV.sub_(scores_CV.amax(-1, keepdim=True))
    score_E = scores_CV.view(-1)[at_E]
    exp_CV, exp_E = scores_CV.exp_(), score_E.exp()
    partition_C = exp_CV.sum(-1)
    log_partition_C = partition_C.log()

    nll_E = log_partition_C[entries.row_E] - score_E
    loss = entries.weight_E.dot(nll_E)
    scale_C = torch.zeros_like(partition_C).index_add_(0, entries.row_E, entries.weight_E)
    buckets = []
    is_thin_TC = torch.zeros(
        (len(tails), len(partition_C)), dtype=torch.bool, device=scores_CV.device
    )
    for number, tail in enumerate(tails):
        rest_C, holds_E = _rest_of_support_(exp_CV, tail, entries, at_E, exp_E)
        tiny = torch.finfo(rest_C.dtype).tiny
        is_thin_C = is_thin_TC[number] = (rest_C < tiny) & (tail.weight_C > 0)
        rest_C.clamp_min_(tiny)
        # A row that was sent whole has no rest, and a tail of exactly 0: 0 * log(tiny) is 0.
        loss += tail.weight_C.dot(log_partition_C - rest_C.log())
        scale_C += tail.weight_C
        ratio_C = torch.where(is_thin_C, 0.0, tail.weight_C / rest_C)
        buckets.append(_Bucket(ratio_C, tail.support, holds_E))
    scale_C /= partition_C
    close_KS = closeness(exp_CV, exp_E, partition_C, targets, entries, tails, chunk)
    if needs_grad:
        _scale_by_segment_(exp_CV, scale_C, buckets)
        factor_E = scale_C[entries.row_E]
        for bucket in buckets:
            factor_E -= bucket.ratio_C[entries.row_E] * bucket.holds_E
        # Kept entries are set, not corrected: beside a tail that the student gives almost no mass,
        # the factor is so large that adding it back would leave rounding error alone.
        exp_CV.view(-1)[at_E] = factor_E * exp_E
        exp_CV.view(-1).index_add_(0, at_E, entries.weight_E, alpha=-1)
    return _OfChunk(loss, nll_E[: len(partition_C)], is_thin_TC, close_KS)


def _rest_of_support_(
    exp_CV: Tensor, tail: Tail, entries: Entries, at_E: Tensor, exp_E: Tensor
) -> tuple[Tensor, Tensor]:
    """Student's unnormalised mass in the bucket, [C], and which entries of the chunk lie in it.

    Summed with the kept entries set to 0, not as 1 - kept: near convergence the difference of two
    numbers close to 1 has no correct digit left. While they are 0, all entries are looked up, so
    that those of others that this term kept, too, are known.
    """
    first, end = tail.support
    exp_CV.view(-1)[at_E[tail.own]] = 0.0
    rest_C = exp_CV[:, first:end].sum(-1)
    holds_E = (entries.id_E >= first) & (entries.id_E < end) & (exp_CV.view(-1)[at_E] != 0)
    exp_CV.view(-1)[at_E[tail.own]] = exp_E[tail.own]
    return rest_C, holds_E


def _scale_by_segment_(exp_CV: Tensor, scale_C: Tensor, buckets: list[_Bucket]) -> None:
    """exp *= scale less the ratios of the buckets there; supports cut the ids in a few segments."""
    edges = sorted({0, exp_CV.shape[1], *(edge for bucket in buckets for edge in bucket.support)})
    for first, end in itertools.pairwise(edges):
        factor_C = scale_C
        for bucket in buckets:
            if bucket.support[0] <= first and end <= bucket.support[1]:
                factor_C = factor_C - bucket.ratio_C
        exp_CV[:, first:end].mul_(factor_C[:, None])
