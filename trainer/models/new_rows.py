"""Rows of items and special tokens that a language model did not have yet.

V vocabulary, I items, D hidden, K of the items' vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.common.errors import InputError
from trainer.data.vocabulary import Vocabulary


@torch.no_grad()
def draw_new_rows_(
    weight_VD: Tensor,
    vocabulary: Vocabulary,
    item_vectors_IK: Tensor | None = None,
    *,
    width: float,
) -> None:
    """Draw the rows after the base tokens around their mean, `width` times as wide as they are.

    Items get one more draw that all of them share. "A movie comes here" is then one direction,
    learnt from every item step at once, and not anew for each of thousands of rarely seen rows: on
    redial-mini 150 steps gave the gold items' steps an item mass of .31 with it and .09 without.
    Their own part must be as wide: taught the recommendation teacher's rows at item steps alone, a
    student with a fifth of it did not tell the context's movies apart in 300 steps of 64 and stayed
    .97 nats from the teacher (its mean row: 1.06); with the whole of it, .67 after 250.

    Args:
        item_vectors_IK: float [I, K], the items' own part up to a turn and the width, so that films
            which are close there are close here; None: drawn.
    """
    base_VD = weight_VD[: vocabulary.base_size]
    mean_D = base_VD.mean(0)
    std = width * float((base_VD - mean_D).square().mean().sqrt())
    items_ID = weight_VD[vocabulary.first_item_id : vocabulary.rec_id]
    if item_vectors_IK is not None:
        items_ID.copy_(_turned(item_vectors_IK, weight_VD.shape[1], std))
    else:
        items_ID.normal_(std=std)
    items_ID.add_(mean_D + torch.randn_like(mean_D) * std)
    weight_VD[vocabulary.rec_id :].normal_(std=std).add_(mean_D)


def _turned(vectors_IK: Tensor, hidden_size: int, std: float) -> Tensor:
    """The vectors about their mean in a random basis of D dimensions, elements of this width.

    Inner products keep their proportions if D >= K, and do on average if not.
    """
    basis_KD = nn.init.orthogonal_(torch.empty(vectors_IK.shape[1], hidden_size))
    return _scaled((vectors_IK - vectors_IK.mean(0)) @ basis_KD, std)


def _scaled(vectors_ID: Tensor, std: float) -> Tensor:
    """The vectors about their mean, elements of this width."""
    vectors_ID = vectors_ID - vectors_ID.mean(0)
    width = float(vectors_ID.square().mean().sqrt())
    if not (math.isfinite(width) and width > 0):
        raise InputError(
            f"item vectors must be finite and differ from each other, got a width of {width}. Fit "
            "the recommendation teacher again."
        )
    return vectors_ID * (std / width)
