"""Fused linear + sparse soft-target cross entropy: loss and both gradients, logits never whole.

For a position with student distribution q, gold token y and teachers t, each with kept entries K_t
(probabilities p), tail mass and a support S_t (all ids, or the items):

    L = - gold log q_y - sum_t weight_t (sum_{j in K_t} p_j log q_j + tail_t log q(S_t - K_t))

    dL/dz_j = q_j * (gold + sum_t weight_t * (kept_t + tail_t))        one cross entropy's gradient
              - [j = y] gold - sum_t weight_t * [j in K_t] p_j         minus the sparse target
              - sum_t weight_t * tail_t * [j in S_t - K_t] q_j / q(S_t - K_t)

The last line is the tail bucket: the dropped mass is one class whose student probability is the
student's own mass outside the kept set (docs/loss.md). A tail of 0 leaves the plain sparse form.

P positions, C positions of one chunk, V vocabulary, D hidden, E entries of a chunk.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.loss.soft_targets import Entries, SoftTargets, Tail, cut

DEFAULT_CHUNK_SIZE = 256
CPU_TILE_SIZE = 1024
HALF_TILE_SIZE = 8192
FLOAT16_GAIN = 64.0
"""float16 has no number between 0 and 6e-8, where much of a softmax lies."""
FLOAT16_ROWS = 256
FLOAT16_HIDDEN = 2.0**15
"""Nor has it one above 65,504: a sum over so many positions, each of a gradient of at most 1 times
its gain and of a hidden state of at most 65,504 over this one, is less."""


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
        ctx.mark_non_differentiable(computed.nll_P)
        return computed.loss, computed.nll_P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _grad_nll_P):
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
    """Loss sum, gold NLL [P], and the gradients of hidden states and weight if they were wanted.

    All of them float32 or wider.
    """

    loss: Tensor
    nll_P: Tensor
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
    # One buffer for all chunks: a fresh one each time costs more page faults than arithmetic.
    buffer_CV = hidden_PD.new_empty(min(chunk_size, num_positions), vocab_size)
    for start in range(0, num_positions, chunk_size):
        chunk = slice(start, min(start + chunk_size, num_positions))
        hidden_CD = hidden_PD[chunk]
        logits_CV = buffer_CV[: len(hidden_CD)]
        _multiply(hidden_CD, weight_VD, logits_CV)
        scores_CV = logits_CV.to(accumulate)
        chunk_loss, nll_P[chunk] = _loss_and_gradient_(scores_CV, targets, chunk, needs_grad)
        loss += chunk_loss
        if needs_grad:
            grad_CV = _rounded_(scores_CV, logits_CV)
            torch.mm(grad_CV, weight_VD, out=grad_hidden_PD[chunk])
            _add_outer_(grad_weight_VD, grad_CV, hidden_CD)
    if not needs_grad:
        return _Computed(loss, nll_P, None)
    gain = _gain(grad_hidden_PD.dtype)
    return _Computed(loss, nll_P, (grad_hidden_PD.to(accumulate).div_(gain), grad_weight_VD))


def _gain(dtype: torch.dtype) -> float:
    """By how much the scores' gradient is held larger than it is while it is in this dtype."""
    return FLOAT16_GAIN if dtype == torch.float16 else 1.0


def _rounded_(grad_CV: Tensor, buffer_CV: Tensor) -> Tensor:
    """The gradient, times its gain, in the buffer: the same memory unless dtypes differ."""
    if (gain := _gain(buffer_CV.dtype)) != 1.0:
        grad_CV *= gain
    return buffer_CV.copy_(grad_CV)


def _multiply(hidden_CD: Tensor, weight_VD: Tensor, logits_CV: Tensor) -> None:
    """logits = hidden @ weight^T, on a CPU in tiles of the vocabulary.

    There a product of few rows and very many columns leaves the caches: 2,048 positions in chunks
    of 256 took 1.18 s whole and .90 s in tiles; all at once .85 s (57,184 x 768, two cores).
    """
    tile_size = CPU_TILE_SIZE if weight_VD.device.type == "cpu" else len(weight_VD)
    for weight_TD, logits_CT in zip(
        weight_VD.split(tile_size), logits_CV.split(tile_size, dim=1), strict=True
    ):
        torch.mm(hidden_CD, weight_TD.T, out=logits_CT)


def _add_outer_(total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """total += grad^T @ hidden, without a second [V, D] buffer; the gain of grad is taken out."""
    if grad_CV.dtype == total_VD.dtype:
        total_VD.addmm_(grad_CV.T, hidden_CD)
        return
    # A product is rounded to the dtype of its factors; hidden states are kept near 1 by powers of
    # two, which cost no digit, each dimension by its own.
    largest_D = hidden_CD.abs().amax(0).float().clamp(1.0, FLOAT16_HIDDEN).log2().ceil().exp2()
    unit_CD = hidden_CD / largest_D.to(hidden_CD.dtype)
    num_rows = FLOAT16_ROWS if grad_CV.dtype == torch.float16 else len(grad_CV)
    for grad_RV, unit_RD in zip(grad_CV.split(num_rows), unit_CD.split(num_rows), strict=True):
        for total_TD, grad_RT in zip(
            total_VD.split(HALF_TILE_SIZE), grad_RV.split(HALF_TILE_SIZE, dim=1), strict=True
        ):
            product_TD = (grad_RT.T @ unit_RD).to(total_TD)
            total_TD.addcmul_(product_TD, largest_D, value=1.0 / _gain(grad_CV.dtype))


def _loss_and_gradient_(
    scores_CV: Tensor, targets: SoftTargets, chunk: slice, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss sum and gold NLL of a chunk; scores_CV is overwritten by dL/dscores if needs_grad."""
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
    for tail in tails:
        rest_C, holds_E = _rest_of_support_(exp_CV, tail, entries, at_E, exp_E)
        # A row that was sent whole has no rest, and a tail of exactly 0: 0 * log(tiny) is 0.
        loss += tail.weight_C.dot(log_partition_C - rest_C.log())
        scale_C += tail.weight_C
        buckets.append(_Bucket(tail.weight_C / rest_C, tail.support, holds_E))
    scale_C /= partition_C
    if needs_grad:
        _scale_by_segment_(exp_CV, scale_C, buckets)
        factor_E = scale_C[entries.row_E]
        for bucket in buckets:
            factor_E -= bucket.ratio_C[entries.row_E] * bucket.holds_E
        # Kept entries are set, not corrected: beside a tail that the student gives almost no mass,
        # the factor is so large that adding it back would leave rounding error alone.
        exp_CV.view(-1)[at_E] = factor_E * exp_E
        exp_CV.view(-1).index_add_(0, at_E, entries.weight_E, alpha=-1)
    return loss, nll_E[: len(partition_C)]


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
    rest_C = exp_CV[:, first:end].sum(-1).clamp_min(torch.finfo(exp_CV.dtype).tiny)
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
