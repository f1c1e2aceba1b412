"""The gates: lambda_t, by which the dialogue teacher's item mass decides who teaches (Eqs. 6-7).

P positions, R of them without those of action tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.target_rows import Targets
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.kinds.names import DIALOGUE


def hard_gate(item_mass_P: Tensor, eta: float) -> Tensor:
    """Eq. 6: 1 where the dialogue teacher's item mass is at least eta, else 0; float [P]."""
    return (item_mass_P >= eta).to(item_mass_P.dtype)


def soft_gate(item_mass_P: Tensor) -> Tensor:
    """Eq. 7: the item mass itself, in [0, 1]; float [P]."""
    return item_mass_P.clamp(0.0, 1.0)


def fixed_gate(item_mass_P: Tensor, fixed_lambda: float | None) -> Tensor:
    """The same lambda at every position (the ablations of section 4.7); float [P]."""
    assert fixed_lambda is not None, "DistillConfig checks that it is given"
    return torch.full_like(item_mass_P, fixed_lambda)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One entry of the table of gates."""

    value: Callable[[Tensor, DistillConfig], Tensor]
    """(item mass [P], config) -> lambda_t [P]"""
    closes: bool = False
    """Whether lambda is 0 at most positions. Then the dialogue rows come first, and one row for a
    whole response is asked for only where it has weight (needed_rows.py)."""


GATES: dict[str, Gate] = {
    "hard": Gate(value=lambda item_mass_P, config: hard_gate(item_mass_P, config.eta), closes=True),
    "soft": Gate(value=lambda item_mass_P, config: soft_gate(item_mass_P)),
    "fixed": Gate(value=lambda item_mass_P, config: fixed_gate(item_mass_P, config.fixed_lambda)),
}
"""By the names that `distill.gate` may have."""


def gate(item_mass_P: Tensor, config: DistillConfig) -> Tensor:
    """lambda_t of the configured gate; no gradient flows through it."""
    return GATES[config.gate].value(item_mass_P.detach(), config)


def mixed_item_mass(targets: Targets, config: DistillConfig) -> np.ndarray:
    """Item mass of the dialogue teachers' mixture, float32 [R]; [0] if none of them is there.

    A mass is a sum of probabilities, so that of a mixture is the weighted mean of the teachers'.
    """
    weights = config.mixture(DIALOGUE)
    if weights.keys().isdisjoint(targets):
        return np.empty(0, np.float32)
    masses = [weight * targets[it].item_mass_R.astype(float) for it, weight in weights.items()]
    return np.sum(masses, axis=0).astype(np.float32)


def gate_of_rows(positions: Positions, targets: Targets, config: DistillConfig) -> Tensor:
    """lambda_t at every position, float32 [P]; it needs no dialogue row if it is 1 throughout.

    Where an action token is predicted it is that of the response's first token, and weighs nothing.
    """
    mass_R = mixed_item_mass(targets, config)
    if not len(mass_R):
        return torch.ones(len(positions.labels_P))
    return gate(torch.from_numpy(mass_R), config)[positions.response_row_P]
