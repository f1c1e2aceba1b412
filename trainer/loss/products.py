"""The products of the fused loss, in half precision without losing what the loss needs.

P positions, C or R positions of one chunk, V vocabulary, T ids of one tile, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

CPU_TILE_SIZE = 1024
HALF_TILE_SIZE = 8192
FLOAT16_GAIN = 64.0
"""float16 has no number between 0 and 6e-8, where much of a softmax lies."""
FLOAT16_ROWS = 256
FLOAT16_HIDDEN = 2.0**15
"""Nor has it one above 65,504: a sum over so many positions, each of a gradient of at most 1 times
its gain and of a hidden state of at most 65,504 over this one, is less."""


def gain_of(dtype: torch.dtype) -> float:
    """By how much the scores' gradient is held larger than it is while it is in this dtype."""
    return FLOAT16_GAIN if dtype == torch.float16 else 1.0


def rounded_(grad_CV: Tensor, buffer_CV: Tensor) -> Tensor:
    """The gradient, times its gain, in the buffer: the same memory unless dtypes differ."""
    if (gain := gain_of(buffer_CV.dtype)) != 1.0:
        grad_CV *= gain
    return buffer_CV.copy_(grad_CV)


def multiply(hidden_CD: Tensor, weight_VD: Tensor, scores_CV: Tensor) -> None:
    """scores = hidden @ weight^T in the dtype of scores, on a CPU in tiles of the vocabulary.

    There a product of few rows and very many columns leaves the caches: 2,048 positions in chunks
    of 256 took 1.18 s whole and .90 s in tiles; all at once .85 s (57,184 x 768, two cores). And
    only CUDA has a product of half precision that is not rounded to it.
    """
    if weight_VD.device.type == "cuda" and weight_VD.dtype == scores_CV.dtype:
        torch.mm(hidden_CD, weight_VD.T, out=scores_CV)
        return
    if weight_VD.device.type == "cuda":
        torch.mm(hidden_CD, weight_VD.T, out_dtype=scores_CV.dtype, out=scores_CV)
        return
    hidden_CD = hidden_CD.to(scores_CV.dtype)
    for weight_TD, scores_CT in zip(
        weight_VD.split(CPU_TILE_SIZE), scores_CV.split(CPU_TILE_SIZE, dim=1), strict=True
    ):
        torch.mm(hidden_CD, weight_TD.to(scores_CT.dtype).T, out=scores_CT)


def add_outer_(
    total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor, *, largest: float = 1.0
) -> None:
    """total += grad^T @ hidden, without a second [V, D] buffer; the gain of grad is taken out.

    `largest`: at least 1, what an element of grad may be before its gain.
    """
    if grad_CV.dtype == total_VD.dtype:
        total_VD.addmm_(grad_CV.T, hidden_CD)
        return
    # A product is rounded to the dtype of its factors; hidden states are kept near 1 by powers of
    # two, which cost no digit, each dimension by its own.
    largest_D = hidden_CD.abs().amax(0).float().clamp(1.0, FLOAT16_HIDDEN).log2().ceil().exp2()
    unit_CD = hidden_CD / largest_D.to(hidden_CD.dtype)
    num_rows = len(grad_CV)
    if grad_CV.dtype == torch.float16:
        num_rows = max(1, int(FLOAT16_ROWS / largest))
    for grad_RV, unit_RD in zip(grad_CV.split(num_rows), unit_CD.split(num_rows), strict=True):
        for total_TD, grad_RT in zip(
            total_VD.split(HALF_TILE_SIZE), grad_RV.split(HALF_TILE_SIZE, dim=1), strict=True
        ):
            product_TD = (grad_RT.T @ unit_RD).to(total_TD)
            total_TD.addcmul_(product_TD, largest_D, value=1.0 / gain_of(grad_CV.dtype))
