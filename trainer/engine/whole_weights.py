"""Whole parameters of a module whose parameters ZeRO-3 has partitioned over the ranks."""

from __future__ import annotations

from typing import Any

import deepspeed
from deepspeed import comm
from torch import Tensor, nn


def whole_state(module: nn.Module, *, zero_stage: int) -> dict[str, Tensor] | None:
    """Collective: the state dict with whole parameters on rank 0, None on the others.

    Gathered one by one and kept on one rank alone: all at once on all ranks, as one context of
    GatheredParameters has them, is a whole model more in each rank's memory.
    """
    is_first = comm.get_rank() == 0
    if zero_stage < 3:
        return module.state_dict() if is_first else None
    whole: dict[int, Tensor] = {}
    for parameter in module.parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_first:
                whole[id(parameter)] = parameter.detach().to("cpu", copy=True)
    if not is_first:
        return None
    # keep_vars: the parameters themselves, by which the whole ones are found.
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    state.update((name, whole[id(it)]) for name, it in state.items() if id(it) in whole)
    return state
