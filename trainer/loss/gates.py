"""The gates: lambda_t, by which the dialogue teacher's item mass decides who teaches (Eqs. 6-7)."""

from __future__ import annotations

import torch
from torch import Tensor

from protos.target_rows import TeacherTargets
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions


def hard_gate(item_mass_P: Tensor, eta: float) -> Tensor:
    """Eq. 6: 1 where the dialogue teacher's item mass is at least eta, else 0; float [P]."""
    return (item_mass_P >= eta).to(item_mass_P.dtype)


def soft_gate(item_mass_P: Tensor) -> Tensor:
    """Eq. 7: the item mass itself, in [0, 1]; float [P]."""
    return item_mass_P.clamp(0.0, 1.0)


def gate(item_mass_P: Tensor, config: DistillConfig) -> Tensor:
    """lambda_t of the configured kind; no gradient flows through it."""
    item_mass_P = item_mass_P.detach()
    if config.fixed_lambda is not None:
        return torch.full_like(item_mass_P, config.fixed_lambda)
    if config.gate == "hard":
        return hard_gate(item_mass_P, config.eta)
    return soft_gate(item_mass_P)


def gate_of_rows(positions: Positions, teachers: TeacherTargets, config: DistillConfig) -> Tensor:
    """lambda_t at every position, float32 [P]; it needs no dialogue row if it is 1 throughout."""
    if "dialogue" not in config.kinds:
        return torch.ones(len(positions.labels_P))
    return gate(torch.from_numpy(teachers.dialogue.item_mass_R), config)
