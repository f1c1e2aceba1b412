"""Tail buckets to which the student gives less mass than the smallest normal number.

In float32 that is e^-87 of the largest. The main pass has no gradient for them, and a loss that is
too small; here the bucket's scores are reduced by their own maximum. Only a diverged student, or
one whose new rows are far off, comes here.

R positions, T terms, V vocabulary, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.loss.products import add_outer_, gain_of, multiply
from trainer.loss.soft_targets import SoftTargets, cut


def add_thin_buckets_(
    hidden_PD: Tensor,
    weight_VD: Tensor,
    targets: SoftTargets,
    rows_R: Tensor,
    is_thin_TR: Tensor,
    gradients: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """What the main pass leaves out of the loss of these positions; added to the gradients, too.

    Args:
        hidden_PD, weight_VD, targets: as of the main pass.
        rows_R: int64 [R] on the CPU, positions with a thin bucket.
        is_thin_TR: bool [terms, R], of which terms.
        gradients: float32 or wider, of hidden states and weight; None: not wanted.
    """
    hidden_RD = hidden_PD[rows_R]
    dtype = torch.promote_types(hidden_PD.dtype, torch.float32)
    scores_RV = hidden_RD.new_empty((len(rows_R), len(weight_VD)), dtype=dtype)
    multiply(hidden_RD, weight_VD, scores_RV)
    # By 1 where there is none, which changes no bit.
    scores_RV /= targets.temperature
    entries, tails = cut(targets, rows_R, scores_RV)
    at_E = entries.row_E * scores_RV.shape[1] + entries.id_E
    top_R = scores_RV.amax(-1)
    tiny = torch.finfo(dtype).tiny
    loss, grad_RV = scores_RV.new_zeros(()), torch.zeros_like(scores_RV)
    for tail, is_thin_R in zip(tails, is_thin_TR, strict=True):
        first, end = tail.support
        outside_RV = torch.ones_like(scores_RV, dtype=torch.bool)
        outside_RV[:, first:end] = False
        outside_RV.view(-1)[at_E[tail.own]] = True
        log_rest_R = scores_RV.masked_fill(outside_RV, -torch.inf).logsumexp(-1)
        # An empty bucket has no mass to give: what its tail holds is rounding.
        is_thin_R = is_thin_R & log_rest_R.isfinite()
        weight_R = torch.where(is_thin_R, tail.weight_C, 0.0)
        log_rest_R = torch.where(is_thin_R, log_rest_R, top_R)
        loss += weight_R.dot(top_R + math.log(tiny) - log_rest_R)
        share_RV = (scores_RV - log_rest_R[:, None]).masked_fill(outside_RV, -torch.inf).exp_()
        grad_RV -= share_RV.mul_(weight_R[:, None])
    grad_RV /= targets.temperature
    if gradients is not None:
        largest = max(1.0, targets.temperature)
        _add_scores_gradient_(gradients, grad_RV, hidden_RD, weight_VD, rows_R, largest)
    return loss


def _add_scores_gradient_(
    gradients: tuple[Tensor, Tensor],
    grad_RV: Tensor,
    hidden_RD: Tensor,
    weight_VD: Tensor,
    rows_R: Tensor,
    largest: float,
) -> None:
    """Take a gradient of some positions' scores on to the hidden states and the weight."""
    grad_hidden_PD, grad_weight_VD = gradients
    gain = gain_of(hidden_RD.dtype)
    rounded_RV = (grad_RV * gain).to(hidden_RD.dtype)
    product_RD = torch.mm(rounded_RV, weight_VD).to(grad_hidden_PD.dtype).div_(gain)
    grad_hidden_PD.index_add_(0, rows_R.to(grad_hidden_PD.device), product_RD)
    add_outer_(grad_weight_VD, rounded_RV, hidden_RD, largest=largest)
