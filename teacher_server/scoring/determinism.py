"""Answers whose bytes are a function of the request alone, whatever shares the device with it.

A product of other sizes groups its sums otherwise, so a row has other low bits beside other rows.
Scored one by one every example has its own sizes, always the same; threads are a fixed number.
"""

from __future__ import annotations

import os

ALONE = {"max_examples": 1}
"""Fields of BatchLimits: a device batch is one example, whatever waits beside it."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def compute_deterministically() -> None:
    """Let CUDA take only operations that give the same bits each time; before its first call.

    An operation that has none of this sort raises RuntimeError, so its request fails. On a CPU all
    that we use have it.
    """
    # Here: the commands of a fleet read ALONE, and do without torch.
    import torch

    # cuBLAS reads it when it is first used; this is one of the two values that torch accepts.
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
