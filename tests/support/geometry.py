"""Whether two sets of vectors are the same up to a turn, a shift and a scale."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_same_geometry(left_ND: Tensor, right_NK: Tensor) -> None:
    """Every distance on the left is the same multiple of the one on the right."""
    # In float64: the matrix product that cdist uses loses most digits of short distances.
    left_NN = torch.cdist(left_ND.double(), left_ND.double())
    right_NN = torch.cdist(right_NK.double(), right_NK.double())
    torch.testing.assert_close(
        left_NN / left_NN.mean(), right_NN / right_NN.mean(), rtol=1e-4, atol=1e-5
    )
