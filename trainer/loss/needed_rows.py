"""Which examples a teacher has any weight for, as the dialogue rows tell.

Both ends of a micro-batch's way use it: the client asks for these rows alone, and the mixture
refuses to go without one of them.

P response positions, B examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protos.target_rows import TargetRows, Targets
from trainer.common.errors import InputError
from trainer.config.distill import DistillConfig
from trainer.kinds.teacher_kind import TeacherKind
from trainer.loss.gates import GATES, gate, mixed_item_mass


def waits_for_dialogue(kind: TeacherKind, config: DistillConfig) -> bool:
    """Whether the examples that a kind is asked about depend on the dialogue rows.

    Its one row serves all positions of a response, and lambda alone weighs it, mostly with 0.
    """
    return GATES[config.gate].closes and kind.share is not None and kind.rows_per == "example"


def needed_examples(
    kind: TeacherKind, targets: Targets, lengths_B: Sequence[int], config: DistillConfig
) -> np.ndarray:
    """Indices of the examples at some position of which a kind has weight, int64, ascending.

    Args:
        kind: one that waits for the dialogue rows.
        targets: with these of all dialogue teachers, as the loss will have them: a row of each for
            every position.
        lengths_B: positions of each example.
        config: the gate, and how the dialogue teachers are mixed.
    """
    assert kind.share is not None
    gate_P = gate(torch.from_numpy(mixed_item_mass(targets, config)), config)
    has_weight_P = (kind.share(gate_P) > 0).numpy()
    return np.unique(np.repeat(np.arange(len(lengths_B)), lengths_B)[has_weight_P])


def check_needed(name: str, rows: TargetRows, row_P: Tensor, weight_P: Tensor) -> None:
    """Raise InputError if a position would learn from a row that is absent."""
    is_hole_P = torch.from_numpy(rows.is_absent_R)[row_P] & (weight_P > 0)
    if bool(is_hole_P.any()):
        raise InputError(
            f"{name} rows must be there wherever they have weight, got none at "
            f"{int(is_hole_P.sum())} of {len(row_P)} positions. Ask for them with the same gate."
        )
